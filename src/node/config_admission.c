/* The setting admission: who may use the node, in one word or in one line, for where a choice is demanded (an .env file, a
 * role's variable).  It stands for allow, verify_url and verify_socket, told apart by how they look.
 *
 * Happy path: each part, between commas or blanks, fills the setting that it looks like; "open" alone fills none.
 * How it fails: at a part that looks like none (config_admission_valid), or one whose setting says something else. */
#include "node/config_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char separators[] = ", ";

enum part { PART_NONE, PART_ALLOW, PART_URL, PART_SOCKET, PARTS };

static enum part part_of(const char *s, size_t n)
{
    if ((n > 8 && memcmp(s, "https://", 8) == 0) || (n > 7 && memcmp(s, "http://", 7) == 0))
        return PART_URL;
    if (n < 2 || s[0] != '/')
        return PART_NONE;
    return n > 5 && memcmp(s + n - 5, ".sock", 5) == 0 ? PART_SOCKET : PART_ALLOW;
}

bool config_admission_valid(const char *text)
{
    bool seen[PARTS] = {false};
    const char *s = text + strspn(text, separators);

    if (strcmp(text, "open") == 0)
        return true;
    for (size_t n; *s; s += n, s += strspn(s, separators)) {
        n = strcspn(s, separators);
        enum part p = part_of(s, n);
        if (p == PART_NONE || seen[p])
            return false;
        seen[p] = true;
    }
    return seen[PART_ALLOW] || seen[PART_URL] || seen[PART_SOCKET];
}

static int apply_part(struct config *c, const char *text, char *err, size_t err_len)
{
    static const char *const names[] = {
        [PART_ALLOW] = "allow", [PART_URL] = "verify_url", [PART_SOCKET] = "verify_socket"};
    enum part p = part_of(text, strlen(text));
    char **const to[] = {[PART_NONE] = NULL,
                         [PART_ALLOW] = &c->allow,
                         [PART_URL] = &c->verify_url,
                         [PART_SOCKET] = &c->verify_socket};
    char why[512];

    if (*to[p] && strcmp(*to[p], text) != 0) {
        snprintf(err, err_len, "admission says %s and %s says %s: keep one of them", text, names[p], *to[p]);
        return -1;
    }
    if (config_key_set(c, config_key_find(names[p], CONFIG_FILE), text, why, sizeof(why)) == 0)
        return 0;
    snprintf(err, err_len, "admission: %s %s", names[p], why);
    return -1;
}

int config_admission_apply(struct config *c, char *err, size_t err_len)
{
    char *copy, *save = NULL;
    int rc = 0;

    if (!c->admission || strcmp(c->admission, "open") == 0) {
        if (!c->admission || !config_admission(c))
            return 0;
        snprintf(
            err, err_len,
            "admission says open, but allow, verify_url or verify_socket is set: take away one or the other");
        return -1;
    }
    copy = strdup(c->admission);
    if (!copy) {
        snprintf(err, err_len, "out of memory");
        return -1;
    }
    for (char *s = strtok_r(copy, separators, &save); s && rc == 0; s = strtok_r(NULL, separators, &save))
        rc = apply_part(c, s, err, err_len);
    free(copy);
    return rc;
}
