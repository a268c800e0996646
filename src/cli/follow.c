/* derpmesh follow: an observer that keeps a control server's map in step with which nodes live.
 *
 * Happy path: read the map; a round lasts until the map's file changes or a signal ends the program: every 100 ms the nodes
 * are asked what is due (follow_watch), judged (follow_plan), and what follows from it is written (follow_out).
 * Fails: a map that is no good at the start ends it; later the one before stays.  What it does not know it does not change. */
#include "cli/cli.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/follow_out.h"
#include "cli/follow_plan.h"
#include "cli/follow_watch.h"
#include "node/log.h"
#include "node/site.h"
#include "node/tls_ctx.h"

enum { TICK_MS = 100, FILE_LOOK_TICKS = 10 };

struct follow {
    const char *map_file, *measured;
    struct follow_out out;
    SSL_CTX *tls;
    struct stat seen; /* of map_file, as it was read */
    bool refused;     /* what stands there now is no good */

    /* One round: one map. */
    struct derpmap *map;
    struct near *near;
    struct follow_plan *plan;
    struct follow_watch *watch;
    struct stats *stats;
    struct stream_io io;
    uv_loop_t loop;
    uv_timer_t tick;
    uv_signal_t term, interrupt;
    unsigned ticks;
    bool over; /* the program ends */
};

static void print_help(void)
{
    printf(
        "usage: derpmesh follow --map FILE [--headscale OUT] [--exec CMD] [--dry-run] [--measured PROBE]\n\n"
        "Watches the nodes of a derpMap and keeps a control server's map in step with which of them live.  "
        "That map\n"
        "lists one node a region; a region whose nodes are all dead keeps its number, and its node points at "
        "a living\n"
        "relay of the nearest region until it is back.  A node is dead when this machine and all the other "
        "nodes that\n"
        "can be asked do not hear it, and this machine hears a majority: if it is itself cut off, nothing is "
        "changed.\n\n"
        "  --map FILE       the derpMap, in any spelling; read again when it changes\n"
        "  --headscale OUT  a file of derp.paths in Headscale's config.yaml, replaced by rename; there\n"
        "                   auto_update_enabled: true and update_frequency: 2s\n"
        "  --exec CMD       run with the new map (DERPMap JSON) on its standard input\n"
        "  --measured F     nearest by the round trips in F, as derpmesh probe --json printed them; else by\n"
        "                   Latitude and Longitude\n"
        "  --dry-run        only say what would be done\n\n"
        "Several observers beside each other come to the same map.  They need no key: nodes of one mesh say "
        "over HTTPS\n"
        "whether they hear another one that is named.\n");
}

/* ---- one round ---- */

static void on_say(void *ctx, bool warn, const char *line)
{
    (void)ctx;
    log_line(warn ? LOG_WARN : LOG_INFO, "follow", "%s", line);
}

static void say_listings(const struct follow *f, const struct derpmap_listing *l, int n)
{
    for (int i = 0; i < n; i++)
        if (l[i].node->region_id != l[i].region_id)
            log_warn("follow",
                     "region=%d lists node=%s of region=%d for as long as it has no living node of its own",
                     l[i].region_id, l[i].node->id, l[i].node->region_id);
    (void)f;
}

/* What the regions list goes out, if it is another than before. */
static void put_out(struct follow *f)
{
    struct derpmap_listing *l = calloc((size_t)f->map->n_regions + 1, sizeof(*l));
    int n = l ? follow_plan_listings(f->plan, l) : 0;
    char *before = f->out.yaml ? strdup(f->out.yaml) : NULL;

    if (n > 0 && follow_out_set(&f->out, f->map, l, n) && (!before || strcmp(before, f->out.yaml) != 0))
        say_listings(f, l, n);
    free(before);
    free(l);
}

static void end_round(struct follow *f)
{
    if (uv_is_closing((uv_handle_t *)&f->tick))
        return;
    follow_watch_stop(f->watch);
    if (f->over)
        follow_out_stop(&f->out);
    stream_io_stop(&f->io);
    uv_close((uv_handle_t *)&f->tick, NULL);
    uv_close((uv_handle_t *)&f->term, NULL);
    uv_close((uv_handle_t *)&f->interrupt, NULL);
}

static bool file_changed(struct follow *f)
{
    struct stat st;

    return stat(f->map_file, &st) == 0 &&
           (st.st_ino != f->seen.st_ino || st.st_size != f->seen.st_size ||
            st.st_mtim.tv_sec != f->seen.st_mtim.tv_sec || st.st_mtim.tv_nsec != f->seen.st_mtim.tv_nsec);
}

static void on_tick(uv_timer_t *t)
{
    struct follow *f = t->data;
    uint64_t now = uv_hrtime() / 1000000;

    follow_watch_tick(f->watch, now);
    /* Before it has heard enough it changes nothing; but a control server without any map is worse. */
    if (follow_plan_step(f->plan, now) || (!f->out.yaml && !follow_out_exists(&f->out)))
        put_out(f);
    follow_out_tick(&f->out, now);
    if (++f->ticks % FILE_LOOK_TICKS == 0 && file_changed(f))
        end_round(f);
}

static void on_signal(uv_signal_t *s, int number)
{
    struct follow *f = s->data;

    (void)number;
    f->over = true;
    end_round(f);
}

/* 0, or -1 with nothing left. */
static int run_round(struct follow *f)
{
    f->stats = calloc(1, sizeof(*f->stats));
    if (!f->stats || uv_loop_init(&f->loop) != 0) {
        free(f->stats);
        return -1;
    }
    f->out.loop = &f->loop;
    if (stream_io_init(&f->io, &f->loop, f->stats, SIZE_MAX) != 0) {
        uv_loop_close(&f->loop);
        free(f->stats);
        return -1;
    }
    f->watch = follow_watch_new(
        &(struct follow_watch_params){.io = &f->io, .tls = f->tls, .map = f->map, .plan = f->plan});
    f->tick.data = f->term.data = f->interrupt.data = f;
    uv_timer_init(&f->loop, &f->tick);
    uv_signal_init(&f->loop, &f->term);
    uv_signal_init(&f->loop, &f->interrupt);
    uv_signal_start(&f->term, on_signal, SIGTERM);
    uv_signal_start(&f->interrupt, on_signal, SIGINT);
    uv_timer_start(&f->tick, on_tick, TICK_MS, TICK_MS);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    stream_io_deinit(&f->io);
    uv_loop_close(&f->loop);
    follow_watch_free(f->watch);
    free(f->stats);
    return 0;
}

/* ---- the map ---- */

/* The map in its file with what belongs to it, in place of the one before.  False with a log line: that one stays. */
static bool take_map(struct follow *f)
{
    char err[512] = "", warn[4096] = "";
    size_t n_probe = 0;
    char *probe = NULL;
    struct near *near = NULL;
    struct follow_plan *plan = NULL;

    memset(&f->seen, 0, sizeof(f->seen));
    if (stat(f->map_file, &f->seen) != 0)
        memset(&f->seen, 0, sizeof(f->seen));
    struct derpmap *map = site_map_load(f->map_file, err, sizeof(err), warn, sizeof(warn));
    if (map && (!f->measured || (probe = cli_read_file("follow", f->measured, &n_probe))))
        near = near_new(map, probe, n_probe, err, sizeof(err));
    if (near)
        plan = follow_plan_new(&(struct follow_plan_params){
            .map = map, .near = near, .before = f->plan, .say = on_say, .now = uv_hrtime() / 1000000});
    free(probe);
    if (!plan) {
        log_error("follow", "%s%s", f->map ? "the new map is not taken over: " : "",
                  err[0] ? err : "out of memory");
        near_free(near);
        derpmap_free(map);
        return false;
    }
    follow_plan_free(f->plan);
    near_free(f->near);
    derpmap_free(f->map);
    f->map = map;
    f->near = near;
    f->plan = plan;
    log_info("follow", "map=%s regions=%d nodes=%d", f->map_file, map->n_regions, map->n_nodes);
    return true;
}

static int follow(struct follow *f)
{
    char err[256];
    int code = CLI_FAILED;

    f->tls = tls_client_ctx_new(err, sizeof(err));
    if (!f->tls) {
        fprintf(stderr, "derpmesh follow: %s\n", err);
        return CLI_FAILED;
    }
    if (take_map(f)) {
        int rc = run_round(f);
        while (rc == 0 && !f->over) {
            take_map(f);
            rc = run_round(f);
        }
        code = rc == 0 ? CLI_OK : CLI_FAILED;
    }
    follow_plan_free(f->plan);
    near_free(f->near);
    derpmap_free(f->map);
    follow_out_free(&f->out);
    SSL_CTX_free(f->tls);
    return code;
}

int cli_follow(int argc, char **argv)
{
    struct follow f = {0};
    const struct cli_flag flags[] = {{"map", NULL, &f.map_file},
                                     {"headscale", NULL, &f.out.headscale},
                                     {"exec", NULL, &f.out.command},
                                     {"measured", NULL, &f.measured},
                                     {"dry-run", &f.out.dry_run, NULL}};

    if (cli_help_asked(argc, argv)) {
        print_help();
        return CLI_OK;
    }
    if (cli_flags(flags, sizeof(flags) / sizeof(flags[0]), argc, argv, NULL, 0) < 0)
        return CLI_USAGE;
    if (!f.map_file)
        f.map_file = cli_setting("map");
    if (!f.map_file[0] || (!f.out.headscale && !f.out.command)) {
        fprintf(stderr, "derpmesh follow: %s\n",
                f.map_file[0] ? "--headscale OUT or --exec CMD says where the map goes"
                              : "--map FILE says which nodes there are");
        return CLI_USAGE;
    }
    signal(SIGPIPE, SIG_IGN); /* a command that does not read */
    log_setup(LOG_INFO, LOG_TEXT);
    return follow(&f);
}
