/* The settings file, and single values in the ways that flags and variables give them. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "node/config_parts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Any text as the value of any key: refused with a reason, or taken. */
static void one_value(struct config *c, const char *text, size_t size)
{
    char why[512], name[CONFIG_NAME_MAX], value[512];

    if (size == 0 || size >= sizeof(value))
        return;
    memcpy(value, text + 1, size - 1);
    value[size - 1] = 0;
    int key = (unsigned char)text[0] % 35;
    why[0] = 0;
    if (config_key_set(c, key, value, why, sizeof(why)))
        assert(*why);
    config_key_name(name, key, CONFIG_ENV);
    for (enum config_place place = CONFIG_FILE; place <= CONFIG_ENV; place++)
        if (config_key_find(value, place) < 0)
            config_key_unknown(value, place, why, sizeof(why));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char err[256] = "";
    struct config *c = calloc(1, sizeof(*c));

    if (!c || size > CONFIG_FILE_MAX) {
        free(c);
        return 0;
    }
    if (config_yaml(c, "f", (const char *)data, size, err, sizeof(err)))
        assert(*err);
    one_value(c, (const char *)data, size);
    assert(c->n_proxies >= 0 && c->n_proxies <= CONFIG_PROXIES_MAX);
    for (int i = 0; i < c->n_proxies; i++)
        assert(c->proxies[i].bits >= 0 && c->proxies[i].bits <= 128);
    config_free(c);
    return 0;
}
