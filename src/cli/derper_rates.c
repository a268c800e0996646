/* derper's -rate-config: a JSON file with two numbers.
 *
 * Happy path: both are read by Go's rules; a burst below what one packet needs is raised.  Fails with a sentence. */
#include "cli/derper_config.h"

#include <stdio.h>
#include <strings.h>

#include <jansson.h>

enum { BURST_LEAST = 65568 };

/* A member of a JSON object by Go's rules: the name in any case.  False if it is there and no number that fits. */
static bool take_number(json_t *object, const char *name, uint64_t *to)
{
    const char *key;
    json_t *value;

    *to = 0;
    json_object_foreach(object, key, value)
    {
        if (strcasecmp(key, name) != 0 || json_is_null(value))
            continue;
        if (!json_is_integer(value) || json_integer_value(value) < 0)
            return false;
        *to = (uint64_t)json_integer_value(value);
    }
    return true;
}

static uint32_t bounded(uint64_t v, uint32_t least)
{
    return v > UINT32_MAX ? UINT32_MAX : v < least ? least : (uint32_t)v;
}

int derper_rates(const char *path, uint32_t *rate, uint32_t *burst, char *err, size_t err_len)
{
    json_error_t why;
    uint64_t r = 0, b = 0;
    json_t *o = json_load_file(path, 0, &why);

    if (!o) {
        snprintf(err, err_len, "%s (line %d)", why.text, why.line);
        return -1;
    }
    bool ok = json_is_object(o) && take_number(o, "PerClientRateLimitBytesPerSec", &r) &&
              take_number(o, "PerClientRateBurstBytes", &b);
    json_decref(o);
    if (!ok) {
        snprintf(err, err_len,
                 "wants {\"PerClientRateLimitBytesPerSec\": N, \"PerClientRateBurstBytes\": N}");
        return -1;
    }
    *rate = bounded(r, 0);
    *burst = bounded(b, BURST_LEAST);
    return 0;
}
