/* Log lines for a tired operator: "level area message key=value…", one event a line, to standard error.
 *
 * Thread: any; a line is one write(2).  Rate limits are per call site.  Secrets never come here. */
#ifndef DERPMESH_NODE_LOG_H
#define DERPMESH_NODE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_format { LOG_TEXT, LOG_JSON };

/* Before the first thread starts, and again at reload: level and form. */
void log_setup(enum log_level level, enum log_format format);
bool log_enabled(enum log_level level);

/* msg is printf-like: "message key=value key=value"; values with blanks are to be quoted by %s of log_quote. */
void log_line(enum log_level level, const char *area, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#define log_debug(area, ...)                                                                                 \
    do {                                                                                                     \
        if (log_enabled(LOG_DEBUG))                                                                          \
            log_line(LOG_DEBUG, area, __VA_ARGS__);                                                          \
    } while (0)
#define log_info(area, ...)  log_line(LOG_INFO, area, __VA_ARGS__)
#define log_warn(area, ...)  log_line(LOG_WARN, area, __VA_ARGS__)
#define log_error(area, ...) log_line(LOG_ERROR, area, __VA_ARGS__)

/* One per call site (static): at most one line per interval, the next one says how many were held back. */
struct log_limit {
    _Atomic uint64_t last_ms;
    _Atomic uint64_t held;
};
/* True if the caller may log now; *held is how many were not logged since. */
bool log_limit_pass(struct log_limit *l, uint64_t interval_ms, uint64_t *held);

/* log_limited(level, area, "..."): at most one line in 5 s from this place, then with held=N. */
#define log_limited(level, area, fmt, ...)                                                                   \
    do {                                                                                                     \
        static struct log_limit limit_;                                                                      \
        uint64_t held_;                                                                                      \
        if (log_enabled(level) && log_limit_pass(&limit_, 5000, &held_)) {                                   \
            if (held_)                                                                                       \
                log_line(level, area, fmt " held=%llu", ##__VA_ARGS__, (unsigned long long)held_);           \
            else                                                                                             \
                log_line(level, area, fmt, ##__VA_ARGS__);                                                   \
        }                                                                                                    \
    } while (0)

/* s with quotes round it where it holds blanks, '=' or '"'; control characters and non-UTF-8 escaped.  Into buf, which is returned. */
const char *log_quote(char *buf, size_t buf_len, const char *s, size_t n);

#endif
