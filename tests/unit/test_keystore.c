/* What a node keeps on its disk: made once, never overwritten, refused when others can read it; the boot counter
 * rises whatever the clock and the file say; pins are all there or none. */
#include "node/keystore.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <sodium.h>

#include "node/keystore_file.h"
#include "node/log.h"

static char base[64], err[1024];

struct fixture {
    struct keystore ks;
    char state[128];
};

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    strcpy(base, "/tmp/derpmesh-state-XXXXXX");
    if (!f || !mkdtemp(base))
        return -1;
    snprintf(f->state, sizeof(f->state), "%s/a/state", base);
    *state = f;
    return keystore_open(&f->ks, f->state, true, err, sizeof(err));
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    keystore_close(&f->ks);
    free(f);
    return nftw(base, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void in_state(char path[static 256], const struct fixture *f, const char *name)
{
    snprintf(path, 256, "%s/%s", f->state, name);
}

static void put(const struct fixture *f, const char *name, const char *text, mode_t mode)
{
    char path[256];

    in_state(path, f, name);
    unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

static void get(const struct fixture *f, const char *name, char text[static 4096])
{
    char path[256];

    in_state(path, f, name);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    text[fread(text, 1, 4095, file)] = 0;
    fclose(file);
}

static mode_t mode_of(const char *path)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 07777;
}

static void says(const char *what)
{
    if (!strstr(err, what))
        fail_msg("\"%s\" does not say \"%s\"", err, what);
}

/* No temporary file is left beside the others. */
static void is_tidy(const struct fixture *f, int files)
{
    char command[256], out[16] = "";

    snprintf(command, sizeof(command), "ls -A %s | wc -l", f->state);
    FILE *p = popen(command, "r");
    assert_non_null(p);
    assert_non_null(fgets(out, sizeof(out), p));
    pclose(p);
    assert_int_equal(atoi(out), files);
}

/* ---- the directory and its lock ---- */

static void test_directory(void **state)
{
    struct fixture *f = *state;
    struct keystore other;
    char path[256];

    assert_int_equal(mode_of(f->state), 0700);
    in_state(path, f, "absent");
    assert_int_equal(keystore_open(&other, path, false, err, sizeof(err)), -ENOENT);
    says("absent: cannot be opened");
    put(f, "file", "x", 0600);
    in_state(path, f, "file");
    assert_int_equal(keystore_open(&other, path, true, err, sizeof(err)), -ENOTDIR);
    in_state(path, f, "file/below");
    assert_int_equal(keystore_open(&other, path, true, err, sizeof(err)), -ENOTDIR);
    says("--state");
    assert_int_equal(keystore_open(&other, "", true, err, sizeof(err)), -ENAMETOOLONG);
}

/* As a user who may not write there.  Root may always, so a child gives that up. */
static void test_forbidden_directory(void **state)
{
    struct fixture *f = *state;
    char path[256];
    int status;

    in_state(path, f, "locked");
    assert_int_equal(mkdir(path, 0500), 0);
    assert_int_equal(chmod(base, 0755), 0);
    snprintf(path, sizeof(path), "%s/a", base);
    assert_int_equal(chmod(path, 0755), 0);
    assert_int_equal(chmod(f->state, 0755), 0);
    pid_t child = fork();
    if (child == 0) {
        struct keystore other;
        int bad = 0;
        if (getuid() == 0 && (setgid(65534) || setuid(65534)))
            _exit(100);
        in_state(path, f, "new");
        if (getuid() == 65534) {
            bad |= keystore_open(&other, path, true, err, sizeof(err)) != -EACCES ||
                   !strstr(err, "new: cannot be made");
            in_state(path, f, "locked");
            bad |= (keystore_open(&other, path, false, err, sizeof(err)) != -EACCES) << 1;
        }
        in_state(path, f, "locked/x/y");
        bad |= (keystore_open(&other, path, true, err, sizeof(err)) != -EACCES) << 2;
        _exit(bad);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_lock(void **state)
{
    struct fixture *f = *state;
    struct keystore second;
    char text[4096], pid[32];

    assert_int_equal(keystore_lock(&f->ks, err, sizeof(err)), 0);
    get(f, "lock", text);
    snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
    assert_string_equal(text, pid);
    assert_int_equal(keystore_open(&second, f->state, true, err, sizeof(err)), 0);
    assert_int_equal(keystore_lock(&second, err, sizeof(err)), -EWOULDBLOCK);
    snprintf(pid, sizeof(pid), "(process %d)", (int)getpid());
    says(pid);
    put(f, "lock", "", 0600); /* another file: no harm to messages, and the first owner still has its own */
    keystore_close(&f->ks);
    assert_int_equal(keystore_lock(&second, err, sizeof(err)), 0);
    keystore_close(&second);
}

/* ---- keys ---- */

static void test_node_key_is_made_once(void **state)
{
    struct fixture *f = *state;
    struct key_pair first, again;
    char path[256], text[2][4096];
    bool created;

    in_state(path, f, "node.key");
    assert_int_equal(keystore_node_key(&f->ks, path, false, &first, &created, err, sizeof(err)), -ENOENT);
    umask(0);
    assert_int_equal(keystore_node_key(&f->ks, path, true, &first, &created, err, sizeof(err)), 0);
    umask(022);
    assert_true(created);
    assert_int_equal(mode_of(path), 0600);
    is_tidy(f, 1);
    get(f, "node.key", text[0]);
    assert_non_null(strstr(text[0], "\"PrivateKey\": \"privkey:"));
    assert_int_equal(keystore_node_key(&f->ks, path, true, &again, &created, err, sizeof(err)), 0);
    assert_false(created);
    assert_memory_equal(&first, &again, sizeof(first));
    get(f, "node.key", text[1]);
    assert_string_equal(text[0], text[1]);
}

static void test_node_key_elsewhere(void **state)
{
    struct fixture *f = *state;
    struct key_pair kp;
    char path[256];
    bool created;

    /* A mistyped path does not become a new identity. */
    in_state(path, f, "derper.key");
    assert_int_equal(keystore_node_key(&f->ks, path, true, &kp, &created, err, sizeof(err)), -ENOENT);
    says("derpmesh keygen node");
    is_tidy(f, 0);
    put(f, "derper.key",
        "{\n\t\"PrivateKey\": "
        "\"privkey:180102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e5f\"\n}",
        0600);
    assert_int_equal(keystore_node_key(&f->ks, path, true, &kp, &created, err, sizeof(err)), 0);
    assert_false(created);
    assert_int_equal(kp.secret[0], 0x18);
}

static void test_bad_node_keys(void **state)
{
    static const char *const bad[] = {"", "{}", "privkey", "{\"PrivateKey\": \"privkey:5ec2e7\"}",
                                      "\x01\xff"};
    struct fixture *f = *state;
    struct key_pair kp;
    char path[256], text[4096], *big = calloc(1, 10000);
    bool created;

    in_state(path, f, "node.key");
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        put(f, "node.key", bad[i], 0600);
        assert_int_equal(keystore_node_key(&f->ks, path, true, &kp, &created, err, sizeof(err)), -EINVAL);
        says(path);
        assert_null(strstr(err, "5ec2e7"));
        get(f, "node.key", text); /* never mended by overwriting */
        assert_string_equal(text, bad[i]);
    }
    assert_non_null(big);
    memset(big, ' ', 9999);
    put(f, "node.key", big, 0600);
    assert_int_equal(keystore_node_key(&f->ks, path, true, &kp, &created, err, sizeof(err)), -EFBIG);
    free(big);
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(keystore_node_key(&f->ks, path, true, &kp, &created, err, sizeof(err)), -EINVAL);
    rmdir(path);
    assert_int_equal(mkfifo(path, 0600), 0); /* does not wait for a writer */
    assert_int_equal(keystore_node_key(&f->ks, path, true, &kp, &created, err, sizeof(err)), -EINVAL);
    unlink(path);
    assert_int_equal(symlink("nowhere", path), 0); /* a dangling link is not replaced */
    assert_int_equal(keystore_node_key(&f->ks, path, true, &kp, &created, err, sizeof(err)), -ENOENT);
    is_tidy(f, 1);
}

static void test_readable_keys_are_refused(void **state)
{
    static const char good[] =
        "{\"PrivateKey\": \"privkey:180102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e5f\"}";
    static const char mesh[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";
    struct fixture *f = *state;
    struct key_pair kp;
    struct mesh_keys mk;
    char node_path[256], mesh_path[256];
    bool created;

    in_state(node_path, f, "node.key");
    in_state(mesh_path, f, "mesh.key");
    for (mode_t bit = 1; bit < 0100; bit <<= 1) {
        put(f, "node.key", good, 0600 | bit);
        assert_int_equal(keystore_node_key(&f->ks, node_path, true, &kp, &created, err, sizeof(err)), -EPERM);
        says("chmod 600");
        put(f, "mesh.key", mesh, 0600 | bit);
        bool fine = bit == 0040 || bit == 0010; /* root:derpmesh 0640 is an honest way; x tells nothing */
        assert_int_equal(keystore_mesh_keys(mesh_path, &mk, err, sizeof(err)), fine ? 0 : -EPERM);
        if (!fine)
            says("chmod 640");
    }
}

static void test_mesh_keys(void **state)
{
    static const char line[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";
    struct fixture *f = *state;
    struct mesh_keys mk;
    char path[256], text[512] = "# comment\n\n";

    in_state(path, f, "mesh.key");
    assert_int_equal(keystore_mesh_keys(path, &mk, err, sizeof(err)), -ENOENT);
    put(f, "mesh.key", "# none\n", 0600);
    assert_int_equal(keystore_mesh_keys(path, &mk, err, sizeof(err)), -EINVAL);
    put(f, "mesh.key", "0011deadbeef\n", 0600);
    assert_int_equal(keystore_mesh_keys(path, &mk, err, sizeof(err)), -EINVAL);
    assert_null(strstr(err, "deadbeef"));
    strcat(strcat(text, line), line);
    put(f, "mesh.key", text, 0640);
    assert_int_equal(keystore_mesh_keys(path, &mk, err, sizeof(err)), 0);
    assert_int_equal(mk.n, 2);
    assert_int_equal(mk.key[1][1], 0x11);
}

/* ---- boot ---- */

static uint64_t boot(const struct fixture *f, uint64_t now)
{
    uint64_t b = 0;

    if (keystore_boot(&f->ks, now, &b, err, sizeof(err)))
        fail_msg("%s", err);
    return b;
}

static void test_boot_rises(void **state)
{
    struct fixture *f = *state;
    char text[4096], path[256];

    assert_int_equal(boot(f, 1000), 1000);
    assert_int_equal(boot(f, 1000), 1001);
    assert_int_equal(boot(f, 5), 1002); /* the clock went back */
    assert_int_equal(boot(f, 5000), 5000);
    get(f, "boot", text);
    assert_string_equal(text, "5000\n");
    in_state(path, f, "boot");
    assert_int_equal(mode_of(path), 0600);
    is_tidy(f, 1);
}

static void test_corrupt_boot(void **state)
{
    static const char *const corrupt[] = {"",
                                          "\n",
                                          "x",
                                          "-1\n",
                                          "12 13\n",
                                          "12\n\n",
                                          "18446744073709551615\n",
                                          "99999999999999999999999\n",
                                          "a line that is longer than a number may be\n"};
    struct fixture *f = *state;

    log_setup(LOG_ERROR, LOG_TEXT); /* the warnings are not looked at here */
    for (size_t i = 0; i < sizeof(corrupt) / sizeof(corrupt[0]); i++) {
        put(f, "boot", corrupt[i], 0600);
        assert_int_equal(boot(f, 7000), 7000);
        assert_int_equal(boot(f, 0), 7001); /* mended */
    }
    log_setup(LOG_INFO, LOG_TEXT);
    put(f, "boot", "41", 0644); /* as a person writes it */
    assert_int_equal(boot(f, 0), 42);
}

/* A number that is not on the disk is not given out. */
static void test_boot_that_cannot_be_stored(void **state)
{
    struct fixture *f = *state;
    uint64_t b = 99;
    char path[256];

    in_state(path, f, "boot");
    assert_int_equal(mkdir(path, 0700), 0);
    assert_true(keystore_boot(&f->ks, 7, &b, err, sizeof(err)) < 0);
    assert_int_equal(b, 99);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(f->state), 0); /* gone from under it */
    assert_true(keystore_boot(&f->ks, 7, &b, err, sizeof(err)) < 0);
    assert_int_equal(b, 99);
    says("boot: cannot be written");
    assert_int_equal(mkdir(f->state, 0700), 0);
}

/* ---- pins ---- */

static struct derp_key key_of(uint8_t byte)
{
    struct derp_key k;

    memset(k.b, byte, sizeof(k.b));
    return k;
}

static int add(const struct fixture *f, const char *name, uint8_t byte)
{
    struct derp_key k = key_of(byte);

    return keystore_peer_add(&f->ks, name, &k, err, sizeof(err));
}

static void test_pins(void **state)
{
    struct fixture *f = *state;
    struct keystore_peers p;
    char text[4096];

    assert_int_equal(keystore_peers_load(&f->ks, &p, err, sizeof(err)), 0);
    assert_int_equal(p.n, 0);
    keystore_peers_free(&p);
    put(f, "peers",
        "# pinned by hand\n\n  "
        "fra-1\tnodekey:0101010101010101010101010101010101010101010101010101010101010101 \r",
        0600);
    assert_int_equal(add(f, "902/1", 2), 0);
    assert_int_equal(add(f, "a name of words", 3), 0);
    assert_int_equal(add(f, "902/1", 2), 0); /* known */
    assert_int_equal(add(f, "902/1", 9), -EEXIST);
    says("peers:4: another key");
    assert_int_equal(keystore_peers_load(&f->ks, &p, err, sizeof(err)), 0);
    assert_int_equal(p.n, 3);
    struct derp_key two = key_of(2);
    assert_string_equal(p.v[0].name, "902/1");
    assert_true(key_equal(&p.v[0].key, &two));
    assert_int_equal(p.v[0].line, 4);
    assert_string_equal(p.v[1].name, "a name of words");
    assert_string_equal(p.v[2].name, "fra-1");
    keystore_peers_free(&p);
    get(f, "peers", text);
    assert_int_equal(strncmp(text, "# pinned by hand\n", 17), 0); /* a person's words stay */
    is_tidy(f, 1);
}

static void test_names_that_cannot_be_pinned(void **state)
{
    struct fixture *f = *state;
    char longest[300];

    memset(longest, 'n', sizeof(longest));
    longest[256] = 0;
    assert_int_equal(add(f, longest, 1), -EINVAL);
    longest[255] = 0;
    assert_int_equal(add(f, longest, 1), 0);
    assert_int_equal(add(f, "", 1), -EINVAL);
    assert_int_equal(add(f, "#1", 1), -EINVAL);
    assert_int_equal(add(f, " x", 1), -EINVAL);
    assert_int_equal(add(f, "x ", 1), -EINVAL);
    assert_int_equal(add(f, "x\ny nodekey:0", 1), -EINVAL);
}

/* A pin that cannot be read fails all, with its line: leaving it out would trust whoever comes next. */
static void test_corrupt_pins(void **state)
{
#define ONES "nodekey:0101010101010101010101010101010101010101010101010101010101010101"
#define TWOS "nodekey:0202020202020202020202020202020202020202020202020202020202020202"
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"a " ONES "\nb nodekey:01\n", "peers:2:"},
        {"a " ONES "\n\nb\n", "peers:3:"},
        {ONES "\n", "peers:1:"},
        {"a " ONES "00\n", "peers:1:"},
        {"a " ONES "\nb " ONES "\na " TWOS "\n", "peers:3: another key for the node of line 1"},
    };
    struct fixture *f = *state;
    struct keystore_peers p;
    char text[4096];

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        put(f, "peers", bad[i].text, 0600);
        assert_int_equal(keystore_peers_load(&f->ks, &p, err, sizeof(err)), -EINVAL);
        says(bad[i].says);
        assert_int_equal(add(f, "c", 1), -EINVAL);
        get(f, "peers", text);
        assert_string_equal(text, bad[i].text);
    }
    put(f, "peers", "a " ONES "\na " ONES "\n", 0600); /* twice the same is no harm */
    assert_int_equal(keystore_peers_load(&f->ks, &p, err, sizeof(err)), 0);
    keystore_peers_free(&p);
}

/* The operator's own file (mesh_pins): the same lines, but it has to be there and to name somebody. */
static void test_given_pins(void **state)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"# nobody\n\n", "names no node"},
        {"", "names no node"},
        {"a " ONES "\n# ok\nb nodekey:xx\n", "pins:3: wants NAME nodekey:"},
        {"a " ONES "\na " TWOS "\n", "pins:2: another key for the node of line 1"},
    };
    struct fixture *f = *state;
    struct keystore_peers p;
    char file[4096];

    snprintf(file, sizeof(file), "%s/pins", f->ks.state);
    assert_int_equal(keystore_pins_load(file, &p, err, sizeof(err)), -ENOENT);
    says("mend mesh_pins");
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        put(f, "pins", bad[i].text, 0644);
        assert_int_equal(keystore_pins_load(file, &p, err, sizeof(err)), -EINVAL);
        says(bad[i].says);
        assert_int_equal(p.n, 0);
    }
    put(f, "pins", "# by hand\nfra-1 " ONES "\n\n  ams-1\t" TWOS "\r\n", 0644);
    assert_int_equal(keystore_pins_load(file, &p, err, sizeof(err)), 0);
    struct derp_key one = key_of(1);
    assert_int_equal(p.n, 2);
    assert_string_equal(p.v[1].name, "fra-1");
    assert_true(key_equal(&p.v[1].key, &one));
    keystore_peers_free(&p);
}

/* ---- files ---- */

static void test_new_files_never_overwrite(void **state)
{
    struct fixture *f = *state;
    char text[4096];

    put(f, "precious", "old", 0600);
    assert_int_equal(keystore_file_new(f->ks.dir_fd, "precious", "shown", "new", 3, err, sizeof(err)),
                     -EEXIST);
    says("shown: is there already");
    get(f, "precious", text);
    assert_string_equal(text, "old");
    assert_int_equal(keystore_file_replace(f->ks.dir_fd, "precious", "shown", "new", 3, err, sizeof(err)), 0);
    get(f, "precious", text);
    assert_string_equal(text, "new");
    assert_int_equal(keystore_file_new(f->ks.dir_fd, "no/such", "shown", "new", 3, err, sizeof(err)),
                     -ENOENT);
    assert_int_equal(keystore_file_new(f->ks.dir_fd, "precious/", "shown", "new", 3, err, sizeof(err)),
                     -EINVAL);
    is_tidy(f, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_directory),
        TEST(test_forbidden_directory),
        TEST(test_lock),
        TEST(test_node_key_is_made_once),
        TEST(test_node_key_elsewhere),
        TEST(test_bad_node_keys),
        TEST(test_readable_keys_are_refused),
        TEST(test_mesh_keys),
        TEST(test_boot_rises),
        TEST(test_corrupt_boot),
        TEST(test_boot_that_cannot_be_stored),
        TEST(test_pins),
        TEST(test_names_that_cannot_be_pinned),
        TEST(test_corrupt_pins),
        TEST(test_given_pins),
        TEST(test_new_files_never_overwrite),
    };

    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
