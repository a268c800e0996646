/* What a node keeps on its disk: node key, mesh keys, boot counter, pinned peers, and the lock that says whose they are.
 *
 * STATE/node.key   {"PrivateKey": "privkey:…"}, 0600       STATE/boot    one decimal number
 * STATE/peers      lines "NAME nodekey:<hex>"               STATE/lock    flock(2), holds the owner's process id
 *
 * Files are replaced atomically and synced, or made once and never overwritten.  All functions return 0, or a negative
 * errno with one sentence in err: the path, what is wrong, what to do; never a secret.
 * Thread: one at a time.  They block on the disk, so: at start, at reload, and for a new pin. */
#ifndef DERPMESH_NODE_KEYSTORE_H
#define DERPMESH_NODE_KEYSTORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/key.h"

struct keystore {
    char *state; /* the directory's path; NULL: none, for reading keys only */
    int dir_fd;  /* open on it */
    int lock_fd; /* -1: not locked */
};

/* Opens STATE.  create: made with its parents and mode 0700 if absent, else that is -ENOENT.  Everything else here
 * works without the lock too (derpmesh check).  After a failure ks needs no closing. */
int keystore_open(struct keystore *ks, const char *state, bool create, char *err, size_t err_len);
/* Gives up the lock. */
void keystore_close(struct keystore *ks);
/* Takes STATE/lock until keystore_close or the end of the process.  -EWOULDBLOCK: another process has it, err names
 * its id. */
int keystore_lock(struct keystore *ks, char *err, size_t err_len);

/* Reads the node key.  If key_file is STATE/node.key and absent and create is set, it is made first and *created set;
 * any other absent file is -ENOENT, so that a mistyped path does not become a new identity.  Readable by group or others: -EPERM.
 * kp is the caller's to sodium_mlock and to wipe. */
int keystore_node_key(const struct keystore *ks, const char *key_file, bool create, struct key_pair *kp,
                      bool *created, char *err, size_t err_len);
/* Reads the mesh key file.  Readable by others or writable by the group: -EPERM (root:derpmesh 0640 is fine). */
int keystore_mesh_keys(const char *file, struct mesh_keys *mk, char *err, size_t err_len);
/* The one key shared with real derpers.  lenient: others may read the file, as derper lets them. */
int keystore_derper_key(const char *file, bool lenient, struct mesh_keys *mk, char *err, size_t err_len);

/* The number of this start: max(stored + 1, unix_ms), stored and synced before it is given out.  A file that cannot be
 * understood counts as absent, with a warning in the log: the clock is a good second source. */
int keystore_boot(const struct keystore *ks, uint64_t unix_ms, uint64_t *boot, char *err, size_t err_len);

struct keystore_peer {
    char *name;
    struct derp_key key;
    int line; /* in the file */
};
struct keystore_peers {
    struct keystore_peer *v;
    size_t n;
};
/* All pins; none if there is no file.  A line that cannot be understood, or a name with two different keys, fails
 * with its line number: leaving a pin out would trust whoever comes next.  End with keystore_peers_free. */
int keystore_peers_load(const struct keystore *ks, struct keystore_peers *out, char *err, size_t err_len);
/* The same of a file that the operator writes (mesh_pins), where no file and no pin are an error, too. */
int keystore_pins_load(const char *file, struct keystore_peers *out, char *err, size_t err_len);
void keystore_peers_free(struct keystore_peers *p);
/* Adds a pin.  A name that has the same key already: 0 and nothing done; another key: -EEXIST. */
int keystore_peer_add(const struct keystore *ks, const char *name, const struct derp_key *key, char *err,
                      size_t err_len);

#endif
