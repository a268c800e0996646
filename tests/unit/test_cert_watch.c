/* Certificate files that change while they are served: a real loop, a temporary directory, and a control thread's
 * state without workers. */
#include "tls_fixture.h"

#include <fcntl.h>
#include <sodium.h>
#include <uv.h>

#include "node/cert_watch.h"
#include "node/log.h"
#include "node/status.h"

/* Long enough for a slow machine, short enough for a test. */
static const struct cert_watch_times quick = {.poll = 400, .settle = 20, .grace = 400, .again = 1000000},
                                     no_poll = {.poll = 1000000,
                                                .settle = 20,
                                                .grace = 400,
                                                .again = 1000000},
                                     nagging = {.poll = 20, .settle = 20, .grace = 40, .again = 50};

struct world {
    char dir[64], certs[96], map[96], log[96];
    uv_loop_t loop;
    struct control control;
    struct cert_watch watch;
    struct login_limits limits;
    struct made first;
};

/* The log goes to a file while a test runs; what the test itself says does not. */
static int real_stderr = -1;

static int keep_stderr(void **state)
{
    (void)state;
    real_stderr = dup(STDERR_FILENO);
    return real_stderr < 0;
}

static int restore_stderr(void **state)
{
    (void)state;
    fflush(stderr);
    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    return 0;
}

static void put(const struct world *w, const char *stem, const struct made *crt, const struct made *key)
{
    char name[128];

    snprintf(name, sizeof name, "%s.crt", stem);
    write_certs(w->certs, name, crt->cert, NULL);
    snprintf(name, sizeof name, "%s.key", stem);
    write_key(w->certs, name, key->key);
}

static struct site *make_site(const struct world *w)
{
    char err[512], warn[2048], map[128], state[128], certs[128];
    bool usage;

    snprintf(map, sizeof map, "--map=%s", w->map);
    snprintf(state, sizeof state, "--state=%s/state", w->dir);
    snprintf(certs, sizeof certs, "--cert-dir=%s", w->certs);
    char *argv[] = {map, state, certs, NULL};
    char *const envp[] = {NULL};
    struct config *c = config_load(3, argv, envp, err, sizeof err, &usage);
    struct site *s = c ? site_load(c, err, sizeof err, warn, sizeof warn) : NULL;
    if (!s)
        fail_msg("%s", err);
    return s;
}

static void begin(struct world *w, const struct made *first, const struct cert_watch_times *t)
{
    memset(w, 0, sizeof *w);
    snprintf(w->dir, sizeof w->dir, "%s", temp_dir());
    snprintf(w->certs, sizeof w->certs, "%s/certs", w->dir);
    snprintf(w->map, sizeof w->map, "%s/map.json", w->dir);
    snprintf(w->log, sizeof w->log, "%s/log", w->dir);
    assert_int_equal(mkdir(w->certs, 0700), 0);
    write_text(
        w->dir, "map.json",
        "{\"Regions\":{\"900\":{\"RegionID\":900,\"RegionCode\":\"a\",\"RegionName\":\"A\",\"Nodes\":[{"
        "\"Name\":\"1a\",\"RegionID\":900,\"HostName\":\"relay.example\",\"IPv4\":\"192.0.2.7\"}]}}}");
    w->first = *first;
    put(w, "relay.example", first, first);
    assert_int_equal(uv_loop_init(&w->loop), 0);
    w->control = (struct control){.loop = &w->loop, .site = make_site(w), .limits = &w->limits};
    int log = open(w->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(log >= 0);
    assert_true(dup2(log, STDERR_FILENO) >= 0);
    close(log);
    cert_watch_start(&w->watch, &w->control, t);
}

static void finish(struct world *w)
{
    cert_watch_stop(&w->watch);
    cert_watch_stop(&w->watch);
    assert_int_equal(uv_run(&w->loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&w->loop), 0);
    assert_int_equal(w->control.site->refs, 1);
    site_unref(w->control.site);
    unmake(&w->first);
    remove_dir(w->dir);
}

static void on_tick(uv_timer_t *t)
{
    (void)t;
}

/* Runs the loop until ok says so; false after ms. */
static bool run(struct world *w, bool (*ok)(const struct world *, const void *), const void *arg, uint64_t ms)
{
    uv_timer_t tick;
    uint64_t until = uv_hrtime() / 1000000 + ms;
    bool done;

    uv_timer_init(&w->loop, &tick);
    uv_timer_start(&tick, on_tick, 5, 5);
    while (!(done = ok && ok(w, arg)) && uv_hrtime() / 1000000 < until)
        uv_run(&w->loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&tick, NULL);
    uv_run(&w->loop, UV_RUN_NOWAIT);
    return done;
}

static bool serves(const struct world *w, const void *made)
{
    return strcmp(w->control.site->tls->pin, pin_of(((const struct made *)made)->cert)) == 0;
}

static bool has_fault(const struct world *w, const void *fault)
{
    return w->control.cert.fault == *(const enum tls_fault *)fault;
}

static int lines(const struct world *w, const char *part)
{
    char line[4096];
    int n = 0;
    FILE *f = fopen(w->log, "r");

    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        n += strstr(line, part) != NULL;
    fclose(f);
    return n;
}

static void becomes(struct world *w, const struct made *m)
{
    if (!run(w, serves, m, 10000))
        fail_msg("not taken over: %s", w->control.cert.text);
}

static void turns_bad(struct world *w, enum tls_fault fault)
{
    if (!run(w, has_fault, &fault, 10000))
        fail_msg("no fault %s", tls_fault_name(fault));
}

/* By the event alone: the poll would come too late. */
static void renewed(void **state)
{
    struct world w;
    struct made a = make_for("DNS:relay.example", NULL), b = make_for("DNS:relay.example", NULL);
    const struct derpmap *map;

    (void)state;
    begin(&w, &a, &no_poll);
    run(&w, NULL, NULL, 200);
    assert_true(serves(&w, &a));
    map = w.control.site->map;
    w.control.site_since = 77;
    put(&w, "relay.example", &b, &b);
    becomes(&w, &b);
    assert_ptr_equal(w.control.site->map, map);
    assert_int_equal(w.control.site_since, 77); /* for peers nothing has changed */
    assert_true(w.control.site->self >= map->nodes && w.control.site->self < map->nodes + map->n_nodes);
    assert_int_equal(lines(&w, "taken over without a reload"), 1);
    assert_int_equal(lines(&w, "not taken over"), 0);
    put(&w, "relay.example", &a, &a); /* and again, on top of a site that borrows */
    becomes(&w, &a);
    finish(&w);
    unmake(&b);
}

/* The directory goes, and another comes in its place. */
static void another_directory(void **state)
{
    struct world w;
    char away[128], fresh[128];
    struct made a = make_for("DNS:relay.example", NULL), b = make_for("DNS:relay.example", NULL);

    (void)state;
    begin(&w, &a, &quick);
    run(&w, NULL, NULL, 100);
    snprintf(away, sizeof away, "%s/away", w.dir);
    assert_int_equal(rename(w.certs, away), 0);
    turns_bad(&w, TLS_FAULT_MISSING);
    assert_int_equal(mkdir(w.certs, 0700), 0);
    put(&w, "relay.example", &b, &b);
    becomes(&w, &b);
    w.watch.t.poll = no_poll.poll;
    run(&w, NULL, NULL, 1000);        /* the last poll */
    put(&w, "relay.example", &a, &a); /* the new directory is watched too */
    becomes(&w, &a);

    snprintf(away, sizeof away, "%s/older", w.dir); /* between two looks, as a swapped symlink does it */
    snprintf(fresh, sizeof fresh, "%s/away", w.dir);
    assert_int_equal(rename(w.certs, away), 0);
    assert_int_equal(rename(fresh, w.certs), 0);
    run(&w, NULL, NULL, 500);
    put(&w, "relay.example", &b, &b);
    becomes(&w, &b);
    finish(&w);
    unmake(&b);
}

static void bad_ones(void **state)
{
    struct world w;
    struct made a = make_for("DNS:relay.example", NULL), b = make_for("DNS:relay.example", NULL),
                elsewhere = make_for("DNS:elsewhere.example", NULL),
                expired = make((struct recipe){.san = "DNS:relay.example", .from_days = -9, .to_days = -1});
    const struct {
        const struct made *crt, *key;
        enum tls_fault fault;
    } cases[] = {{&b, &a, TLS_FAULT_MISMATCH},
                 {&elsewhere, &elsewhere, TLS_FAULT_NAME},
                 {&expired, &expired, TLS_FAULT_EXPIRED}};

    (void)state;
    begin(&w, &a, &quick);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put(&w, "relay.example", cases[i].crt, cases[i].key);
        turns_bad(&w, cases[i].fault);
        run(&w, NULL, NULL, 1000); /* two polls: not said again */
        assert_true(serves(&w, &a));
        assert_int_equal(lines(&w, "not taken over"), (int)i + 1);
        assert_true(status_certificate_fault(&w.control, cases[i].fault, time(NULL)));
        has(w.control.cert.text, "relay.example.");
    }
    write_text(w.certs, "relay.example.crt", "garbage");
    turns_bad(&w, TLS_FAULT_DAMAGED);
    put(&w, "relay.example", &a, &a);
    turns_bad(&w, TLS_FAULT_NONE);
    assert_int_equal(lines(&w, "not taken over"), 4);
    assert_int_equal(lines(&w, "served again"), 1);
    put(&w, "relay.example", &b, &b);
    becomes(&w, &b);
    finish(&w);
    unmake(&b);
    unmake(&elsewhere);
    unmake(&expired);
}

/* Written in pieces, each of them wrong: no word about it. */
static void in_pieces(void **state)
{
    struct world w;
    struct made a = make_for("DNS:relay.example", NULL), b = make_for("DNS:relay.example", NULL);
    char path[128], text[4096];
    size_t n;
    FILE *f;

    (void)state;
    begin(&w, &a, &quick);
    write_certs(w.dir, "whole.crt", b.cert, NULL);
    snprintf(path, sizeof path, "%s/whole.crt", w.dir);
    f = fopen(path, "r");
    n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    snprintf(path, sizeof path, "%s/relay.example.crt", w.certs);
    f = fopen(path, "w");
    fwrite(text, 1, n / 2, f);
    fflush(f);
    run(&w, NULL, NULL, 100);
    write_key(w.certs, "relay.example.key", b.key);
    run(&w, NULL, NULL, 100);
    assert_true(serves(&w, &a));
    fwrite(text + n / 2, 1, n - n / 2, f);
    fclose(f);
    becomes(&w, &b);
    run(&w, NULL, NULL, 600);
    assert_int_equal(lines(&w, " error "), 0);
    assert_int_equal(lines(&w, "not taken over"), 0);
    assert_int_equal(w.control.cert.fault, TLS_FAULT_NONE);
    finish(&w);
    unmake(&b);
}

/* What a reload has just said of these files is not said again. */
static void said_by_a_reload(void **state)
{
    struct world w;
    struct made a = make_for("DNS:relay.example", NULL);

    (void)state;
    begin(&w, &a, &quick);
    snprintf(w.control.refused, sizeof w.control.refused,
             "%s/relay.example.crt holds no certificate in PEM form: put a good one in its place", w.certs);
    write_text(w.certs, "relay.example.crt", "garbage");
    turns_bad(&w, TLS_FAULT_DAMAGED);
    assert_int_equal(lines(&w, "not taken over"), 0);
    write_text(w.certs, "relay.example.crt", "");
    run(&w, NULL, NULL, 100);
    write_text(w.certs, "relay.example.key", "garbage");
    put(&w, "relay.example", &a, &a);
    turns_bad(&w, TLS_FAULT_NONE);
    assert_string_equal(w.control.refused, "");
    finish(&w);
}

/* A reload took the new files itself: nothing is left to do, and nothing is undone. */
static void beside_a_reload(void **state)
{
    struct world w;
    struct made a = make_for("DNS:relay.example", NULL), b = make_for("DNS:relay.example", NULL);

    (void)state;
    begin(&w, &a, &no_poll);
    run(&w, NULL, NULL, 100);
    put(&w, "relay.example", &b, &b);
    control_set_site(&w.control, make_site(&w));
    assert_true(serves(&w, &b));
    run(&w, NULL, NULL, 600);
    assert_true(serves(&w, &b));
    assert_int_equal(lines(&w, "taken over"), 0);
    /* A site of older files (they changed while the reload read them) is put right. */
    put(&w, "relay.example", &a, &a);
    struct site *older = make_site(&w);
    becomes(&w, &a);
    put(&w, "relay.example", &b, &b);
    becomes(&w, &b);
    control_set_site(&w.control, older);
    assert_true(serves(&w, &a));
    becomes(&w, &b);
    finish(&w);
    unmake(&b);
}

static void a_side_comes_and_breaks(void **state)
{
    struct world w;
    struct made a = make_for("DNS:relay.example", NULL), b = make_for("DNS:b.example", NULL);

    (void)state;
    begin(&w, &a, &quick);
    put(&w, "b", &b, &b);
    for (int i = 0; i < 100 && w.control.site->tls->n_sides == 0; i++)
        run(&w, NULL, NULL, 50);
    assert_int_equal(w.control.site->tls->n_sides, 1);
    put(&w, "b", &b, &a);
    uint64_t broken = uv_hrtime();
    for (int i = 0; i < 100 && w.control.site->tls->n_left_out == 0; i++)
        run(&w, NULL, NULL, 50);
    assert_int_equal(w.control.site->tls->n_left_out, 1);
    assert_true(uv_hrtime() - broken >= quick.grace * 1000000); /* it might have been half-written */
    assert_int_equal(w.control.site->tls->n_sides, 1);          /* the one before */
    assert_true(status_certificate_fault(&w.control, TLS_FAULT_LEFT_OUT, time(NULL)));
    run(&w, NULL, NULL, 900);
    assert_int_equal(lines(&w, "b.key does not belong"), 1);
    finish(&w);
    unmake(&b);
}

/* What stays wrong is said again, but not at every look. */
static void reminders(void **state)
{
    struct world w;
    struct made soon = make((struct recipe){.san = "DNS:relay.example", .from_days = -80, .to_days = 5}), b;

    (void)state;
    begin(&w, &soon, &nagging);
    run(&w, NULL, NULL, 400);
    assert_in_range(lines(&w, "expires in 5 days"), 2, 9);
    assert_true(status_certificate_fault(&w.control, TLS_FAULT_EXPIRING, time(NULL)));
    finish(&w);

    soon = make_for("DNS:relay.example", NULL);
    begin(&w, &soon, &quick);
    b = make((struct recipe){.san = "DNS:relay.example", .from_days = -80, .to_days = 5});
    put(&w, "relay.example", &b, &b);
    becomes(&w, &b);
    run(&w, NULL, NULL, 900);
    assert_int_equal(lines(&w, "expires "), 1); /* once, when it came */
    finish(&w);
    unmake(&b);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, keep_stderr, restore_stderr)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(renewed),
        TEST(another_directory),
        TEST(bad_ones),
        TEST(in_pieces),
        TEST(said_by_a_reload),
        TEST(beside_a_reload),
        TEST(a_side_comes_and_breaks),
        TEST(reminders),
    };
    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
