/* Sites: maps refused with a place, which node is this one, loading all or nothing, references; and what a reload keeps
 * and tells. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/reload.h"
#include "node/site.h"

static char dir[64];

static const char *in_dir(const char *name)
{
    static char path[32][160];
    static int turn;
    turn = (turn + 1) % 32;
    snprintf(path[turn], sizeof(path[turn]), "%s/%s", dir, name);
    return path[turn];
}

static const char *write_file(const char *name, const char *text)
{
    const char *path = in_dir(name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    chmod(path, 0600);
    return path;
}

#define NODE(name, ip, port)                                                                                 \
    "{\"Name\":\"" name "\",\"RegionID\":900,\"HostName\":\"" ip "\",\"IPv4\":\"" ip "\",\"DERPPort\":" port \
    "}"
#define MAP(nodes)                                                                                           \
    "{\"Regions\":{\"900\":{\"RegionID\":900,\"RegionCode\":\"a\",\"RegionName\":\"A\",\"Nodes\":[" nodes    \
    "]}}}"

static const char one_node[] = MAP(NODE("1a", "127.0.0.1", "4431"));
static const char two_nodes[] = MAP(NODE("1a", "127.0.0.1", "4431") "," NODE("1b", "192.0.2.9", "4432"));

static struct config *make_config(const char *map, const char *node, const char *extra)
{
    char err[300], mapflag[200], state[200];
    bool usage;
    snprintf(mapflag, sizeof(mapflag), "--map=%s", map);
    snprintf(state, sizeof(state), "--state=%s", in_dir("state"));
    char nodeflag[64];
    snprintf(nodeflag, sizeof(nodeflag), "--node=%s", node ? node : "");
    char *argv[] = {mapflag, state, node ? nodeflag : (char *)extra, node && extra ? (char *)extra : NULL,
                    NULL};
    int argc = 2 + (node != NULL) + (extra != NULL);
    char *const envp[] = {NULL};
    struct config *c = config_load(argc, argv, envp, err, sizeof(err), &usage);
    if (!c)
        fail_msg("%s", err);
    return c;
}

static struct site *load(const char *map, const char *node, const char *extra, char *err, char *warn)
{
    return site_load(make_config(map, node, extra), err, 512, warn, 1024);
}

static struct site *load_derpers(const char *peers, const char *key, char *err)
{
    char mapflag[200], stateflag[200], mesh[200], peersflag[100], keyflag[200], warn[1024];
    bool usage;
    snprintf(mapflag, sizeof(mapflag), "--map=%s", write_file("map2", two_nodes));
    snprintf(stateflag, sizeof(stateflag), "--state=%s", in_dir("state"));
    snprintf(mesh, sizeof(mesh), "--mesh-key-file=%s", in_dir("mesh.key"));
    snprintf(peersflag, sizeof(peersflag), "--derper-peers=%s", peers);
    snprintf(keyflag, sizeof(keyflag), "--derper-mesh-key-file=%s", key ? key : "");
    char node[] = "--node=1a";
    char *argv[] = {mapflag, stateflag, node, mesh, peersflag, key ? keyflag : NULL, NULL};
    char *const envp[] = {NULL};
    struct config *c = config_load(key ? 6 : 5, argv, envp, err, 512, &usage);
    if (!c)
        fail_msg("%s", err);
    return site_load(c, err, 512, warn, sizeof(warn));
}

static void derpers_have_a_key_of_their_own(void **state)
{
    (void)state;
    static const char a[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n",
                      b[] = "10112233445566778899AABBCCDDEEFF00112233445566778899aabbccddeeff\n";
    char err[512] = "", two[200];
    write_file("mesh.key", a);
    struct site *s = load_derpers("1b,1a", write_file("derper.key", b), err);
    if (!s)
        fail_msg("%s", err);
    assert_int_equal(s->derper_key.n, 1);
    assert_true(site_is_derper(s, derpmap_find(s->map, "1b")));
    site_unref(s);
    assert_null(load_derpers("1b", write_file("derper.key", a), err));
    assert_non_null(strstr(err, "another one"));
    assert_null(load_derpers("1b", NULL, err));
    assert_non_null(strstr(err, "needs derper_mesh_key_file"));
    assert_null(load_derpers("1b,1c", write_file("derper.key", b), err));
    assert_non_null(strstr(err, "1c is not in the map"));
    snprintf(two, sizeof(two), "%s%s", b, b);
    assert_null(load_derpers("1b", write_file("derper.key", two), err));
    assert_null(load_derpers("1b", in_dir("absent"), err));
}

static void pins_are_read_with_the_rest(void **state)
{
    (void)state;
    char err[512] = "", warn[1024], text[512], flag[200];
    const char *map = write_file("map2", two_nodes), *file = in_dir("pins");
    static const char one[] = "0101010101010101010101010101010101010101010101010101010101010101",
                      two[] = "0202020202020202020202020202020202020202020202020202020202020202";
    snprintf(flag, sizeof(flag), "--mesh-pins=%s", file);
    assert_null(load(map, "1a", flag, err, warn));
    assert_non_null(strstr(err, "mend mesh_pins"));
    snprintf(text, sizeof(text), "1b nodekey:%s\n1c nodekey:%.60s\n", one, one);
    write_file("pins", text);
    assert_null(load(map, "1a", flag, err, warn));
    assert_non_null(strstr(err, "pins:2: "));
    snprintf(text, sizeof(text), "1b nodekey:%s\n", one);
    write_file("pins", text);
    struct site *old = load(map, "1a", flag, err, warn), *same = load(map, "1a", flag, err, warn);
    snprintf(text, sizeof(text), "# moved\n1b nodekey:%s\n", two);
    write_file("pins", text);
    struct site *fresh = load(map, "1a", flag, err, warn);
    if (!old || !same || !fresh)
        fail_msg("%s", err);
    assert_int_equal(old->pins.n, 1);
    assert_string_equal(old->mesh_pins[0].name, "1b");
    assert_int_equal(old->mesh_pins[0].key.b[31], 1);
    reload_describe(text, sizeof(text), old, same);
    assert_null(strstr(text, "pins"));
    reload_describe(text, sizeof(text), old, fresh);
    assert_non_null(strstr(text, "mesh pins changed: 1, were 1"));
    site_unref(old);
    site_unref(same);
    site_unref(fresh);
}

static void bad_maps_are_refused_with_a_place(void **state)
{
    (void)state;
    char err[512], warn[1024] = "";
    assert_null(site_map_load(in_dir("absent"), err, sizeof(err), warn, sizeof(warn)));
    assert_non_null(strstr(err, "absent"));
    assert_null(site_map_load(dir, err, sizeof(err), warn, sizeof(warn)));
    assert_non_null(strstr(err, "no regular file"));
    assert_null(site_map_load(write_file("broken", "{\n \"Regions\": {\"900\": }}"), err, sizeof(err), warn,
                              sizeof(warn)));
    assert_non_null(strstr(err, "broken:2:"));
    char *big = malloc((5 << 20) + 1);
    memset(big, ' ', 5 << 20);
    big[5 << 20] = 0;
    assert_null(site_map_load(write_file("big", big), err, sizeof(err), warn, sizeof(warn)));
    assert_non_null(strstr(err, "more than"));
    free(big);
}

static void who_is_this(void **state)
{
    (void)state;
    char err[512], warn[1024] = "";
    struct derpmap *one = site_map_load(write_file("one", one_node), err, sizeof(err), warn, sizeof(warn));
    struct derpmap *two = site_map_load(write_file("two", two_nodes), err, sizeof(err), warn, sizeof(warn));
    assert_non_null(one);
    assert_non_null(two);
    assert_string_equal(site_find_self(one, NULL, err, sizeof(err))->id, "1a"); /* the only one */
    assert_string_equal(site_find_self(two, NULL, err, sizeof(err))->id,
                        "1a"); /* the only one that is local */
    assert_string_equal(site_find_self(two, "1b", err, sizeof(err))->id, "1b");
    assert_null(site_find_self(two, "1c", err, sizeof(err)));
    assert_non_null(strstr(err, "1a, 1b"));
    derpmap_free(one);
    derpmap_free(two);
    struct derpmap *both = site_map_load(
        write_file("both", MAP(NODE("1a", "127.0.0.1", "4431") "," NODE("1b", "127.0.0.2", "4432"))), err,
        sizeof(err), warn, sizeof(warn));
    assert_non_null(both);
    assert_null(site_find_self(both, NULL, err, sizeof(err)));
    assert_non_null(strstr(err, "--node"));
    derpmap_free(both);
}

static void all_or_nothing(void **state)
{
    (void)state;
    char err[512], warn[1024];
    const char *map = write_file("two", two_nodes);
    struct site *s = load(map, "1a", NULL, err, warn);
    if (!s)
        fail_msg("%s", err);
    assert_int_equal(strlen(s->node_key_hex), 64);
    assert_non_null(s->tls);
    assert_true(s->tls->made);
    assert_non_null(strstr(warn, s->tls->pin)); /* the line to paste */
    assert_int_equal(s->mesh_keys.n, 0);
    struct site *again = load(map, "1a", NULL, err, warn);
    assert_non_null(again);
    assert_true(key_equal(&s->node_key.pub, &again->node_key.pub)); /* made once */
    site_unref(again);
    assert_ptr_equal(site_ref(s), s);
    site_unref(s);
    assert_string_equal(s->self->id, "1a"); /* one reference is left */
    site_unref(s);
    site_unref(NULL);

    assert_null(load(map, "1b", "--tls=manual", err, warn)); /* no certificate */
    assert_true(strlen(err) > 0);
    char keys[200];
    snprintf(keys, sizeof(keys), "--mesh-key-file=%s", write_file("mesh", "not a key\n"));
    assert_null(load(map, "1a", keys, err, warn));
    assert_null(strstr(err, "not a key"));
    s = load(map, "1a", "--tls=off", err, warn);
    if (!s)
        fail_msg("%s", err);
    assert_null(s->tls);
    site_unref(s);
}

static void what_a_reload_keeps(void **state)
{
    (void)state;
    char kept[256];
    const char *map = write_file("two", two_nodes);
    struct config *old = make_config(map, "1a", "--workers=1"),
                  *fresh = make_config(map, "1b", "--workers=2");
    fresh->listen.port = 1;
    fresh->tls = TLS_OFF;
    fresh->login_limit = 7;
    free(fresh->state);
    fresh->state = strdup("/elsewhere");
    assert_int_equal(reload_keep(fresh, old, "1a", kept, sizeof(kept)), 0);
    assert_string_equal(kept, "listen, workers, tls, state, node");
    assert_int_equal(fresh->workers, 1);
    assert_int_equal(fresh->listen.port, old->listen.port);
    assert_int_equal(fresh->tls, old->tls);
    assert_string_equal(fresh->state, old->state);
    assert_string_equal(fresh->node, "1a");
    assert_int_equal(fresh->login_limit, 7); /* may change */
    assert_int_equal(reload_keep(fresh, old, "1a", kept, sizeof(kept)), 0);
    assert_string_equal(kept, "");
    config_free(old);
    config_free(fresh);
}

static void what_a_reload_tells(void **state)
{
    (void)state;
    char err[512], warn[1024], text[512];
    struct site *one = load(write_file("one", one_node), "1a", NULL, err, warn);
    struct site *two = load(write_file("two", two_nodes), "1a", "--login-limit=77", err, warn);
    assert_non_null(one);
    assert_non_null(two);
    reload_describe(text, sizeof(text), one, one);
    assert_string_equal(text, "nothing");
    reload_describe(text, sizeof(text), one, two);
    assert_string_equal(text, "nodes added=1b, login_limit changed");
    reload_describe(text, sizeof(text), two, one);
    assert_non_null(strstr(text, "nodes removed=1b"));
    site_unref(one);
    one = load(write_file("one", MAP(NODE("1a", "127.0.0.1", "4439"))), "1a", NULL, err, warn);
    assert_non_null(one);
    reload_describe(text, sizeof(text), one, two);
    assert_non_null(strstr(text, "nodes changed=1a"));
    site_unref(one);
    site_unref(two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_maps_are_refused_with_a_place),
        cmocka_unit_test(derpers_have_a_key_of_their_own),
        cmocka_unit_test(pins_are_read_with_the_rest),
        cmocka_unit_test(who_is_this),
        cmocka_unit_test(all_or_nothing),
        cmocka_unit_test(what_a_reload_keeps),
        cmocka_unit_test(what_a_reload_tells),
    };
    char command[100];
    strcpy(dir, "/tmp/derpmesh-site-XXXXXX");
    if (sodium_init() < 0 || !mkdtemp(dir))
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    return system(command) || failed;
}
