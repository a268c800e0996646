/* Readiness for systemd: one datagram to the socket that $NOTIFY_SOCKET names (sd_notify(3)), without its
 * library.
 * Thread: the control thread. */
#ifndef DERPMESH_NODE_SYSTEMD_H
#define DERPMESH_NODE_SYSTEMD_H

/* "READY=1", "STOPPING=1", … lines.  Does nothing where nobody asked. */
void systemd_notify(const char *state);
/* RELOADING=1 with the time that Type=notify-reload wants. */
void systemd_reloading(void);

/* How often the service manager wants WATCHDOG=1, in ms, with time to spare; 0: it does not. */
unsigned systemd_watchdog_ms(void);

#endif
