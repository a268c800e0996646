/* follow's decisions in virtual time: a node's death takes silence, the others' word and a majority; its return takes longer each
 * time; what regions list follows from the map and the dead alone.  And the distances that choose stand-ins and backups. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/backup.h"
#include "cli/follow_plan.h"
#include "cli/near.h"

enum { NODES = 5, STEP_MS = 50 };

static const char map_text[] =
    "{\"Regions\": {"
    "\"900\": {\"RegionID\": 900, \"RegionCode\": \"a\", \"Latitude\": 50, \"Longitude\": 8, \"Nodes\": ["
    "  {\"Name\": \"a1\", \"RegionID\": 900, \"HostName\": \"192.0.2.1\"},"
    "  {\"Name\": \"a2\", \"RegionID\": 900, \"HostName\": \"192.0.2.2\", \"STUNPort\": -1}]},"
    "\"901\": {\"RegionID\": 901, \"RegionCode\": \"b\", \"Latitude\": 22, \"Longitude\": 114, \"Nodes\": ["
    "  {\"Name\": \"b1\", \"RegionID\": 901, \"HostName\": \"192.0.2.3\"}]},"
    "\"902\": {\"RegionID\": 902, \"RegionCode\": \"c\", \"Latitude\": 51, \"Longitude\": 0, \"Nodes\": ["
    "  {\"Name\": \"c1\", \"RegionID\": 902, \"HostName\": \"192.0.2.4\"}]},"
    "\"903\": {\"RegionID\": 903, \"RegionCode\": \"d\", \"Nodes\": ["
    "  {\"Name\": \"d1\", \"RegionID\": 903, \"HostName\": \"192.0.2.5\"}]}}}";

enum { A1, A2, B1, C1, D1 };

struct world {
    struct derpmap *map;
    struct near *near;
    struct follow_plan *plan;
    uint64_t now;
    bool heard[NODES];        /* by the observer */
    bool hears[NODES][NODES]; /* [who][about], as the mesh says */
    bool answers[NODES];      /* questions about others */
    char said[4096];
};

static void on_say(void *ctx, bool warn, const char *line)
{
    struct world *w = ctx;
    size_t n = strlen(w->said);
    (void)warn;
    snprintf(w->said + n, sizeof(w->said) - n, "%s\n", line);
}

static void begin(struct world *w)
{
    struct text_error err;
    char why[200];
    memset(w, 0, sizeof(*w));
    w->now = 1000000;
    w->map = derpmap_parse(map_text, strlen(map_text), &err);
    assert_non_null(w->map);
    w->near = near_new(w->map, NULL, 0, why, sizeof(why));
    assert_non_null(w->near);
    w->plan = follow_plan_new(
        &(struct follow_plan_params){.map = w->map, .near = w->near, .say = on_say, .ctx = w, .now = w->now});
    assert_non_null(w->plan);
    for (int i = 0; i < NODES; i++) {
        w->heard[i] = w->answers[i] = true;
        for (int k = 0; k < NODES; k++)
            w->hears[i][k] = true;
    }
}

static void end(struct world *w)
{
    follow_plan_free(w->plan);
    near_free(w->near);
    derpmap_free(w->map);
}

/* Time passes. */
static bool pass(struct world *w, uint64_t ms)
{
    bool decided = false;
    for (uint64_t until = w->now + ms; w->now < until; w->now += STEP_MS) {
        for (int i = 0; i < NODES; i++) {
            int voters[FOLLOW_VOTERS];
            if (w->heard[i])
                follow_plan_heard(w->plan, i, w->now);
            int n = follow_plan_voters(w->plan, i, w->now, voters);
            for (int k = 0; k < n; k++) {
                enum follow_vote v = w->hears[voters[k]][i] ? FOLLOW_VOTE_UP : FOLLOW_VOTE_SILENT;
                follow_plan_vote(w->plan, i, voters[k], w->answers[voters[k]] ? v : FOLLOW_VOTE_NONE, w->now);
            }
        }
        decided = follow_plan_step(w->plan, w->now);
    }
    return decided;
}

/* Nobody hears it, or everybody does. */
static void die(struct world *w, int node, bool dead)
{
    w->heard[node] = !dead;
    for (int i = 0; i < NODES; i++)
        w->hears[i][node] = !dead;
}

static void assert_lists(const struct world *w, const char *want)
{
    struct derpmap_listing l[8];
    char got[200] = "";
    int n = follow_plan_listings(w->plan, l);
    for (int i = 0; i < n; i++)
        snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s%d=%s%s", i ? " " : "", l[i].region_id,
                 l[i].node->id, l[i].no_stun ? "-" : "");
    assert_string_equal(got, want);
}

#define ALL "900=a1 901=b1 902=c1 903=d1"

static void test_death_and_return(void **state)
{
    struct world w;
    (void)state;
    begin(&w);
    assert_false(pass(&w, FOLLOW_START_MS - STEP_MS));
    assert_true(pass(&w, 1000));
    assert_lists(&w, ALL);
    die(&w, B1, true);
    pass(&w, FOLLOW_SILENT_MS - STEP_MS);
    assert_lists(&w, ALL);
    pass(&w, 4 * STEP_MS);
    assert_lists(&w, "900=a1 901=a1 902=c1 903=d1");
    assert_non_null(strstr(w.said, "b1 of region 901 is dead"));
    die(&w, B1, false);
    pass(&w, FOLLOW_BACK_MS - STEP_MS);
    assert_lists(&w, "900=a1 901=a1 902=c1 903=d1");
    pass(&w, 4 * STEP_MS);
    assert_lists(&w, ALL);
    end(&w);
}

static void test_stand_ins(void **state)
{
    struct world w;
    (void)state;
    begin(&w);
    pass(&w, 5000);
    die(&w, A1, true);
    pass(&w, 3000);
    assert_lists(&w, "900=a2- 901=b1 902=c1 903=d1"); /* its own second node, whatever it answers */
    die(&w, A2, true);
    pass(&w, 9000);
    assert_lists(&w, "900=c1 901=b1 902=c1 903=d1"); /* London is nearer than Hongkong */
    end(&w);
}

static void test_others_must_agree(void **state)
{
    struct world w;
    (void)state;
    begin(&w);
    pass(&w, 5000);
    die(&w, B1, true);
    w.hears[C1][B1] = true;
    pass(&w, 30000);
    assert_lists(&w, ALL);
    assert_non_null(strstr(w.said, "b1 does not answer here, but c1 hears it: nothing is changed"));
    w.hears[C1][B1] = false;
    pass(&w, 4 * STEP_MS);
    assert_lists(&w, "900=a1 901=a1 902=c1 903=d1");
    /* Heard here again, but the mesh does not hear it: it stays dead. */
    w.heard[B1] = true;
    pass(&w, 60000);
    assert_lists(&w, "900=a1 901=a1 902=c1 903=d1");
    end(&w);
}

static void test_nobody_to_ask(void **state)
{
    struct world w;
    (void)state;
    begin(&w);
    for (int i = 0; i < NODES; i++)
        w.answers[i] = false; /* derpers */
    pass(&w, 5000);
    die(&w, B1, true);
    pass(&w, 30000);
    assert_lists(&w, ALL);
    assert_non_null(strstr(w.said, "no other node says whether it hears it"));
    end(&w);
}

static void test_cut_off(void **state)
{
    struct world w;
    (void)state;
    begin(&w);
    pass(&w, 5000);
    for (int i = A1; i <= C1; i++)
        die(&w, i, true);
    assert_true(pass(&w, 60000)); /* one of five: the listings hold as they were */
    assert_lists(&w, ALL);
    assert_non_null(strstr(w.said, " of 5 nodes answer here"));
    end(&w);
    /* One that begins so decides nothing at all. */
    begin(&w);
    for (int i = A1; i <= C1; i++)
        die(&w, i, true);
    assert_false(pass(&w, 60000));
    end(&w);
}

static void test_flapping(void **state)
{
    struct world w;
    uint64_t took[4];
    (void)state;
    begin(&w);
    pass(&w, 5000);
    for (int i = 0; i < 4; i++) {
        die(&w, B1, true);
        pass(&w, 3000);
        assert_true(follow_plan_dead(w.plan, B1));
        die(&w, B1, false);
        for (took[i] = 0; follow_plan_dead(w.plan, B1) && took[i] < 600000; took[i] += STEP_MS)
            pass(&w, STEP_MS);
        if (i > 0)
            assert_in_range(took[i], took[i - 1] * 2 - 500, took[i - 1] * 2 + 500);
    }
    /* After a long calm it is as at first. */
    pass(&w, FOLLOW_CALM_MS);
    die(&w, B1, true);
    pass(&w, 3000);
    die(&w, B1, false);
    pass(&w, FOLLOW_BACK_MS + 500);
    assert_false(follow_plan_dead(w.plan, B1));
    end(&w);
}

/* An observer that begins while a node is dead finds it so before its listings hold; a new map keeps what is known. */
static void test_beginning(void **state)
{
    struct world w;
    (void)state;
    begin(&w);
    die(&w, B1, true);
    assert_true(pass(&w, FOLLOW_START_MS + 4 * STEP_MS));
    assert_lists(&w, "900=a1 901=a1 902=c1 903=d1");
    struct follow_plan *next = follow_plan_new(&(struct follow_plan_params){
        .map = w.map, .near = w.near, .before = w.plan, .say = on_say, .ctx = &w, .now = w.now});
    assert_non_null(next);
    follow_plan_free(w.plan);
    w.plan = next;
    assert_true(follow_plan_dead(w.plan, B1));
    pass(&w, 10000);
    assert_lists(&w, "900=a1 901=a1 902=c1 903=d1");
    end(&w);
}

static void test_near(void **state)
{
    static const char probe[] = "{\"pairs\": [{\"from\": \"a1\", \"to\": \"a1\", \"rtt_median_ms\": 20},"
                                "{\"from\": \"b1\", \"to\": \"b1\", \"rtt_median_ms\": 200},"
                                "{\"from\": \"d1\", \"to\": \"d1\", \"rtt_median_ms\": 2},"
                                "{\"from\": \"a1\", \"to\": \"b1\", \"rtt_median_ms\": 115},"
                                "{\"from\": \"a1\", \"to\": \"d1\", \"rtt_median_ms\": 41},"
                                "{\"from\": \"a1\", \"to\": \"gone\", \"rtt_median_ms\": 1},"
                                "{\"from\": \"a1\", \"to\": \"c1\", \"rtt_median_ms\": null}]}";
    struct world w;
    char text[NEAR_TEXT], err[200];
    int order[8], n;
    (void)state;
    begin(&w);
    assert_int_equal(near_order(w.near, 0, order), 3);
    assert_int_equal(order[0], 2); /* London, Hongkong, and nowhere */
    assert_int_equal(order[1], 1);
    assert_int_equal(order[2], 3);
    assert_string_equal(near_text(w.near, 0, 2, text), "576 km");
    assert_string_equal(near_text(w.near, 0, 3, text), "distance unknown");
    assert_false(near_known(w.near, 3));
    assert_null(near_new(w.map, "{}", 2, err, sizeof(err)));
    assert_null(near_new(w.map, "{", 1, err, sizeof(err)));
    near_free(w.near);
    w.near = near_new(w.map, probe, strlen(probe), err, sizeof(err));
    assert_non_null(w.near);
    near_order(w.near, 0, order);
    assert_int_equal(order[0], 1); /* 115 - (20 + 200) / 2 = 5; by coordinates 5.7; 41 - 11 = 30 */
    assert_int_equal(order[1], 2);
    assert_int_equal(order[2], 3);
    assert_string_equal(near_text(w.near, 3, 0, text), "30.0 ms");
    struct derpmap_listing *l = backup_choose(w.map, w.near, 1, &n);
    assert_int_equal(n, 4);
    assert_string_equal(l[0].node->id, "b1");
    assert_true(l[0].no_stun);
    assert_string_equal(l[1].node->id, "a1");
    assert_string_equal(l[2].node->id, "a1");
    assert_string_equal(l[3].node->id, "a1");
    free(l);
    end(&w);
}

/* What is exported with changes is read again as it was meant. */
static void test_export(void **state)
{
    struct world w;
    struct text_error err;
    (void)state;
    begin(&w);
    struct derpmap_listing l[] = {{.region_id = 900, .node = &w.map->nodes[B1]},
                                  {.region_id = 901, .node = &w.map->nodes[B1]},
                                  {.region_id = 902, .node = &w.map->nodes[C1]},
                                  {.region_id = 903, .node = &w.map->nodes[C1], .no_stun = true}};
    struct derpmap_changes c = {.listings = l, .n = 4, .instead = true, .note = "one\ntwo"};
    for (int to = DERPMAP_TO_TAILSCALE; to <= DERPMAP_TO_JSON; to++) {
        char *text = derpmap_export_changed(w.map, (enum derpmap_to)to, &c);
        assert_non_null(text);
        assert_int_equal(strstr(text, " two\n") != NULL, to != DERPMAP_TO_JSON);
        struct derpmap *m = derpmap_parse(text, strlen(text), &err);
        assert_non_null(m);
        assert_int_equal(m->n_regions, 4);
        assert_int_equal(m->n_nodes, 4);
        assert_string_equal(m->regions[0].nodes[0]->name, "900-b1");
        assert_string_equal(m->regions[0].nodes[0]->host_name, "192.0.2.3");
        assert_int_equal(m->regions[0].nodes[0]->region_id, 900);
        assert_string_equal(m->regions[1].nodes[0]->name, "b1");
        assert_true(m->regions[3].nodes[0]->backup);
        derpmap_free(m);
        free(text);
    }
    end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_death_and_return),
        cmocka_unit_test(test_stand_ins),
        cmocka_unit_test(test_others_must_agree),
        cmocka_unit_test(test_nobody_to_ask),
        cmocka_unit_test(test_cut_off),
        cmocka_unit_test(test_flapping),
        cmocka_unit_test(test_beginning),
        cmocka_unit_test(test_near),
        cmocka_unit_test(test_export),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
