/* Questions over HTTP, by libcurl on a libuv loop.
 *
 * Happy path: verify_url_ask takes a handle from the pool and adds it to the multi handle; libcurl says which sockets
 * it waits for (on_socket) and when it wants to be called (on_timeout); finished transfers are judged and put back.
 * Failure: every transfer ends in one call of heard, within 5 s: no connection, a certificate that does not verify, a
 * status that is not 200, an answer that is too long or no answer at all. */
#include "node/verify_url.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/flatjson.h"

enum { POOL_MAX = ADMIT_RUNNING_MAX, BODY_MAX = 256 };

struct question {
    struct question *prev, *next; /* under way; in the pool: next */
    CURL *easy;
    uint64_t number;
    struct derp_key key;
    size_t n, n_headers;
    bool too_long;
    char body[BODY_MAX], answer[VERIFY_ANSWER_MAX], error[CURL_ERROR_SIZE];
};

struct verify_url {
    uv_loop_t *loop;
    verify_heard heard;
    void *ctx;
    char *url;
    CURLM *multi;
    struct curl_slist *headers;
    uv_timer_t timer;
    struct question *running, *pool;
    size_t n_pool;
};

/* A socket that libcurl waits for. */
struct watched {
    uv_poll_t poll;
    struct verify_url *v;
    curl_socket_t fd;
};

/* ---- texts ---- */

int verify_answer_parse(const char *text, size_t n, bool *allow)
{
    struct flat_reader r;
    struct flat_member m;
    bool found = false;
    int rc;
    if (n > VERIFY_ANSWER_MAX || flat_open(&r, text, n) < 0)
        return -1;
    while ((rc = flat_next(&r, &m)) > 0) {
        if (!flat_named(&m, "Allow"))
            continue;
        if (flat_bool(&m, allow) < 0)
            return -1;
        found = true;
    }
    return rc == 0 && found ? 0 : -1;
}

const char *verify_url_shown(char out[static VERIFY_URL_SHOWN], const char *url)
{
    const char *from = url + (strncmp(url, "https://", 8) == 0 ? 8 : strncmp(url, "http://", 7) == 0 ? 7 : 0);
    size_t host = strcspn(from, "/?#"), at = 0;
    for (size_t i = 0; i < host; i++)
        if (from[i] == '@')
            at = i + 1;
    snprintf(out, VERIFY_URL_SHOWN, "%.*s%.*s", (int)(from - url), url, (int)(strcspn(from, "?#") - at),
             from + at);
    return out;
}

/* The address without its port; false if it is not known. */
static bool source_text(char out[static INET6_ADDRSTRLEN], const struct conn_addr *from)
{
    static const uint8_t zero[16], mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    if (memcmp(from->ip, zero, sizeof(zero)) == 0)
        return false;
    if (memcmp(from->ip, mapped, sizeof(mapped)) == 0)
        return inet_ntop(AF_INET, from->ip + 12, out, INET6_ADDRSTRLEN) != NULL;
    return inet_ntop(AF_INET6, from->ip, out, INET6_ADDRSTRLEN) != NULL;
}

/* ---- libcurl's callbacks for one transfer ---- */

static size_t on_answer(char *data, size_t size, size_t n, void *ctx)
{
    struct question *q = ctx;
    (void)size; /* 1 */
    if (n > sizeof(q->answer) - q->n) {
        q->too_long = true;
        return 0;
    }
    memcpy(q->answer + q->n, data, n);
    q->n += n;
    return n;
}

static size_t on_header(char *data, size_t size, size_t n, void *ctx)
{
    struct question *q = ctx;
    (void)size;
    q->n_headers += n;
    if (n >= 5 && memcmp(data, "HTTP/", 5) == 0)
        q->n = 0; /* the body of a redirect does not count */
    q->too_long = q->n_headers > VERIFY_HEADERS_MAX;
    return q->too_long ? 0 : n;
}

/* ---- the end of a transfer ---- */

static void pool_put(struct verify_url *v, struct question *q)
{
    if (v->n_pool >= POOL_MAX) {
        curl_easy_cleanup(q->easy);
        free(q);
        return;
    }
    q->next = v->pool;
    v->pool = q;
    v->n_pool++;
}

static void end(struct verify_url *v, struct question *q)
{
    curl_multi_remove_handle(v->multi, q->easy);
    *(q->prev ? &q->prev->next : &v->running) = q->next;
    if (q->next)
        q->next->prev = q->prev;
}

static enum admit_verdict judge(struct question *q, CURLcode rc, char *detail, size_t len)
{
    long status = 0;
    bool allow;
    curl_easy_getinfo(q->easy, CURLINFO_RESPONSE_CODE, &status);
    if (q->too_long) {
        snprintf(detail, len, "its answer is too long");
        return ADMIT_OUTAGE;
    }
    if (rc != CURLE_OK) {
        snprintf(detail, len, "%s", q->error[0] ? q->error : curl_easy_strerror(rc));
        return status == 0 ? ADMIT_UNREACHED : ADMIT_OUTAGE;
    }
    if (status != 200) {
        snprintf(detail, len, "it answered with status %ld", status);
        return ADMIT_OUTAGE;
    }
    if (verify_answer_parse(q->answer, q->n, &allow) < 0) {
        snprintf(detail, len, "its answer is not {\"Allow\": true} or {\"Allow\": false}");
        return ADMIT_OUTAGE;
    }
    return allow ? ADMIT_YES : ADMIT_NO;
}

static void finished(struct verify_url *v)
{
    CURLMsg *m;
    int left;
    while ((m = curl_multi_info_read(v->multi, &left)) != NULL) {
        struct question *q = NULL;
        char detail[ADMIT_DETAIL] = "";
        CURLcode rc = m->data.result;
        if (m->msg != CURLMSG_DONE || curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &q) != CURLE_OK)
            continue;
        enum admit_verdict verdict = judge(q, rc, detail, sizeof(detail));
        uint64_t number = q->number;
        struct derp_key key = q->key;
        end(v, q);
        pool_put(v, q);
        v->heard(v->ctx, number, &key, verdict, detail);
    }
}

/* ---- sockets and time ---- */

static void on_ready(uv_poll_t *poll, int status, int events)
{
    struct watched *s = poll->data;
    struct verify_url *v = s->v;
    int running, flags = status < 0 ? CURL_CSELECT_ERR : 0;
    if (events & UV_READABLE)
        flags |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        flags |= CURL_CSELECT_OUT;
    curl_multi_socket_action(v->multi, s->fd, flags, &running);
    finished(v);
}

static void on_watched_closed(uv_handle_t *h)
{
    free(h->data);
}

static struct watched *watch(struct verify_url *v, curl_socket_t fd)
{
    struct watched *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->v = v;
    s->fd = fd;
    if (uv_poll_init_socket(v->loop, &s->poll, fd) != 0) {
        free(s);
        return NULL;
    }
    s->poll.data = s;
    curl_multi_assign(v->multi, fd, s);
    return s;
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *socket_ctx)
{
    struct verify_url *v = ctx;
    struct watched *s = socket_ctx;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (s) {
            curl_multi_assign(v->multi, fd, NULL);
            uv_close((uv_handle_t *)&s->poll, on_watched_closed);
        }
        return 0;
    }
    if (!s && !(s = watch(v, fd)))
        return 0; /* the transfer runs into its time limit */
    int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
    uv_poll_start(&s->poll, events, on_ready);
    return 0;
}

static void on_time(uv_timer_t *timer)
{
    struct verify_url *v = timer->data;
    int running;
    curl_multi_socket_action(v->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    finished(v);
}

static int on_timeout(CURLM *multi, long ms, void *ctx)
{
    struct verify_url *v = ctx;
    (void)multi;
    if (ms < 0)
        uv_timer_stop(&v->timer);
    else
        uv_timer_start(&v->timer, on_time, (uint64_t)ms, 0);
    return 0;
}

/* ---- questions ---- */

static int set_all(struct verify_url *v, struct question *q)
{
    static const char agent[] = "derpmesh/" DERPMESH_VERSION;
    const char *ca_file = secure_getenv("SSL_CERT_FILE"), *ca_dir = secure_getenv("SSL_CERT_DIR");
    const char *same = strncmp(v->url, "https:", 6) == 0 ? "https" : "http";
    CURL *c = q->easy;
    CURLcode rc = curl_easy_setopt(c, CURLOPT_URL, v->url); /* the only ones that need memory */
    rc |= curl_easy_setopt(c, CURLOPT_USERAGENT, agent);
    rc |= curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, same);
    rc |= curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, same);
    if (ca_file && ca_file[0])
        rc |= curl_easy_setopt(c, CURLOPT_CAINFO, ca_file);
    if (ca_dir && ca_dir[0])
        rc |= curl_easy_setopt(c, CURLOPT_CAPATH, ca_dir);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 2L);
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(c, CURLOPT_MAXREDIRS, 3L);
    curl_easy_setopt(c, CURLOPT_POSTREDIR, (long)CURL_REDIR_POST_ALL);
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)VERIFY_URL_MS);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, v->headers);
    curl_easy_setopt(c, CURLOPT_PRIVATE, q);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, q->error);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_answer);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, q);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, q);
    return rc == CURLE_OK ? 0 : -1;
}

static struct question *pool_take(struct verify_url *v)
{
    struct question *q = v->pool;
    if (q) {
        v->pool = q->next;
        v->n_pool--;
        return q;
    }
    q = calloc(1, sizeof(*q));
    if (q && (!(q->easy = curl_easy_init()) || set_all(v, q) < 0)) {
        curl_easy_cleanup(q->easy);
        free(q);
        return NULL;
    }
    return q;
}

int verify_url_ask(struct verify_url *v, uint64_t question, const struct derp_key *key,
                   const struct conn_addr *from)
{
    char text[KEY_TEXT_MAX], source[INET6_ADDRSTRLEN];
    struct question *q = v->url ? pool_take(v) : NULL;
    if (!q)
        return -1;
    key_public_text(text, key);
    if (source_text(source, from))
        snprintf(q->body, sizeof(q->body), "{\"NodePublic\":\"%s\",\"Source\":\"%s\"}", text, source);
    else
        snprintf(q->body, sizeof(q->body), "{\"NodePublic\":\"%s\"}", text);
    q->number = question;
    q->key = *key;
    q->n = q->n_headers = 0;
    q->too_long = false;
    q->error[0] = 0;
    curl_easy_setopt(q->easy, CURLOPT_POSTFIELDS, q->body); /* not copied: it stays in q */
    curl_easy_setopt(q->easy, CURLOPT_POSTFIELDSIZE, (long)strlen(q->body));
    if (curl_multi_add_handle(v->multi, q->easy) != CURLM_OK) {
        pool_put(v, q);
        return -1;
    }
    q->prev = NULL;
    q->next = v->running;
    if (v->running)
        v->running->prev = q;
    v->running = q;
    return 0;
}

static void give_up(struct verify_url *v)
{
    while (v->running) {
        struct question *q = v->running;
        end(v, q);
        pool_put(v, q);
    }
    while (v->pool) {
        struct question *q = v->pool;
        v->pool = q->next;
        curl_easy_cleanup(q->easy);
        free(q);
    }
    v->n_pool = 0;
}

/* ---- life ---- */

int verify_url_set(struct verify_url *v, const char *url)
{
    char *copy = url ? strdup(url) : NULL;
    if (url && !copy)
        return -1;
    give_up(v);
    free(v->url);
    v->url = copy;
    return 0;
}

struct verify_url *verify_url_new(uv_loop_t *loop, verify_heard heard, void *ctx)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return NULL;
    struct verify_url *v = calloc(1, sizeof(*v));
    CURLM *multi = v ? curl_multi_init() : NULL;
    struct curl_slist *headers = multi ? curl_slist_append(NULL, "Content-Type: application/json") : NULL;
    if (!headers || uv_timer_init(loop, &v->timer) != 0) {
        curl_slist_free_all(headers);
        curl_multi_cleanup(multi);
        free(v);
        curl_global_cleanup();
        return NULL;
    }
    v->loop = loop;
    v->heard = heard;
    v->ctx = ctx;
    v->multi = multi;
    v->headers = headers;
    v->timer.data = v;
    curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, v);
    curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timeout);
    curl_multi_setopt(multi, CURLMOPT_TIMERDATA, v);
    curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long)ADMIT_RUNNING_MAX);
    return v;
}

void verify_url_close(struct verify_url *v)
{
    give_up(v);
    curl_multi_cleanup(v->multi); /* closes kept connections: their sockets are unwatched */
    v->multi = NULL;
    uv_close((uv_handle_t *)&v->timer, NULL);
}

void verify_url_free(struct verify_url *v)
{
    if (!v)
        return;
    curl_slist_free_all(v->headers);
    free(v->url);
    free(v);
    curl_global_cleanup();
}
