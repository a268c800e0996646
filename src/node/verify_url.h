/* The verify URL: POST {"NodePublic":"nodekey:…","Source":"1.2.3.4"} is answered {"Allow":true} or {"Allow":false}.
 *
 * Source: tailcfg.DERPAdmitClientRequest, derpserver's verifyClient; Headscale answers it at /verify.
 * An answer is a 200 with at most 4 KiB of JSON within 5 s, over a certificate that verifies.  Redirects are followed
 * within one scheme.
 * Owner: admit_io.c.  Thread: its loop, which libcurl's multi interface runs on. */
#ifndef DERPMESH_NODE_VERIFY_URL_H
#define DERPMESH_NODE_VERIFY_URL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "node/admission.h"

enum { VERIFY_URL_MS = 5000, VERIFY_ANSWER_MAX = 4096, VERIFY_HEADERS_MAX = 32768, VERIFY_URL_SHOWN = 256 };

typedef void (*verify_heard)(void *ctx, uint64_t question, const struct derp_key *key, enum admit_verdict v,
                             const char *detail);

struct verify_url;

/* NULL without memory. */
struct verify_url *verify_url_new(uv_loop_t *loop, verify_heard heard, void *ctx);
/* Asks there from now on; NULL: nowhere.  What is under way is given up, unanswered.  0, or -1 without memory. */
int verify_url_set(struct verify_url *v, const char *url);
/* 0: heard follows, from the loop; -1: no memory.  from may be zero: not known. */
int verify_url_ask(struct verify_url *v, uint64_t question, const struct derp_key *key,
                   const struct conn_addr *from);
void verify_url_close(struct verify_url *v); /* gives up, closes its handles */
void verify_url_free(struct verify_url *v);  /* after the loop has ended */

/* What a service answered: 0 with *allow, or -1 if that is no answer. */
int verify_answer_parse(const char *text, size_t n, bool *allow);
/* A URL for people: without what may be secret in it (user, password, query).  Into out, which is returned. */
const char *verify_url_shown(char out[static VERIFY_URL_SHOWN], const char *url);

#endif
