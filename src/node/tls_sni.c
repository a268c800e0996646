/* Which certificate a client gets: by the name that it asks for.
 *
 * Happy path: the names of all certificates in one sorted table, made once; a handshake looks its name up, then the
 * wildcard above it, and goes on with that certificate's context.
 * Failure: an unknown name, or none, gets the default.  The table belongs to the main context, so that a handshake
 * under way keeps it when a renewed one has come. */
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "node/tls_cert.h"
#include "node/tls_common.h"

enum { NAME_MAX_LEN = 253 };

struct sni_name {
    char *name;   /* lower case; "*.example" */
    SSL_CTX *ctx; /* of a side; NULL: the main one */
    time_t until; /* of two for the same name the later one */
};

struct sni {
    struct sni_name *v;
    size_t n, cap;
    SSL_CTX *nameless; /* for who asks for no name; NULL: the main one */
};

static void sni_free(struct sni *s)
{
    for (size_t i = 0; s && i < s->n; i++) {
        free(s->v[i].name);
        SSL_CTX_free(s->v[i].ctx);
    }
    if (s) {
        SSL_CTX_free(s->nameless);
        free(s->v);
    }
    free(s);
}

static void on_ctx_free(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    (void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
    sni_free(ptr);
}

/* OpenSSL's place for what belongs to a context: given once per process, never changed. */
static int sni_index;
static pthread_once_t sni_once = PTHREAD_ONCE_INIT;

static void make_index(void)
{
    sni_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, on_ctx_free);
}

/* Lower case without a dot at the end.  0, or -1 if it is no name of DNS. */
static int fold(char out[static NAME_MAX_LEN + 1], const char *name, size_t n)
{
    if (n > 0 && name[n - 1] == '.')
        n--;
    if (n == 0 || n > NAME_MAX_LEN)
        return -1;
    for (size_t i = 0; i < n; i++) {
        if (name[i] <= ' ' || name[i] >= 0x7f)
            return -1;
        out[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] + 32 : name[i]);
    }
    out[n] = '\0';
    return 0;
}

static int add_name(struct sni *s, const ASN1_STRING *name, SSL_CTX *ctx, time_t until)
{
    char text[NAME_MAX_LEN + 1];

    if (fold(text, (const char *)ASN1_STRING_get0_data(name), (size_t)ASN1_STRING_length(name)) != 0)
        return 0;
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 16;
        struct sni_name *v = realloc(s->v, cap * sizeof *v);
        if (!v)
            return -1;
        s->v = v;
        s->cap = cap;
    }
    char *copy = strdup(text);
    if (!copy)
        return -1;
    if (ctx)
        SSL_CTX_up_ref(ctx);
    s->v[s->n++] = (struct sni_name){copy, ctx, until};
    return 0;
}

static int add_names(struct sni *s, const X509 *cert, SSL_CTX *ctx, time_t until)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    int rc = 0;

    for (int i = 0; rc == 0 && i < sk_GENERAL_NAME_num(names); i++) {
        int type;
        const ASN1_STRING *value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &type);
        if (type == GEN_DNS)
            rc = add_name(s, value, ctx, until);
    }
    GENERAL_NAMES_free(names);
    return rc;
}

/* By name; among equals the main one first, then the one that lasts longest. */
static int by_name(const void *a, const void *b)
{
    const struct sni_name *x = a, *y = b;
    int rc = strcmp(x->name, y->name);

    if (rc != 0)
        return rc;
    if (!x->ctx != !y->ctx)
        return x->ctx ? 1 : -1;
    return (x->until < y->until) - (x->until > y->until);
}

/* The first of its name: the table keeps the others behind it. */
static const struct sni_name *find(const struct sni *s, const char *name)
{
    size_t low = 0, high = s->n;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (strcmp(s->v[mid].name, name) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low < s->n && strcmp(s->v[low].name, name) == 0 ? &s->v[low] : NULL;
}

/* NULL: the main one. */
static SSL_CTX *choose(const struct sni *s, const char *asked)
{
    char name[NAME_MAX_LEN + 1];
    const struct sni_name *found;
    char *dot;

    if (!asked)
        return s->nameless;
    if (fold(name, asked, strlen(asked)) != 0)
        return NULL;
    found = find(s, name);
    dot = strchr(name, '.');
    if (!found && dot && dot > name) {
        dot[-1] = '*';
        found = find(s, dot - 1);
    }
    return found ? found->ctx : NULL;
}

/* Go's server does not confirm the name, so ours does not either: NOACK. */
static int on_server_name(SSL *ssl, int *alert, void *arg)
{
    const struct sni *s = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), sni_index);
    SSL_CTX *ctx = s ? choose(s, SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name)) : NULL;

    (void)alert, (void)arg;
    if (ctx)
        SSL_set_SSL_CTX(ssl, ctx);
    return SSL_TLSEXT_ERR_NOACK;
}

static bool covers(const struct tls_server *t, const char *ip)
{
    uint8_t bytes[16];
    int len;

    return ip && tls_host_ip(ip, bytes, &len) && tls_cert_covers(SSL_CTX_get0_certificate(t->ctx), ip);
}

static void find_nameless(struct sni *s, const struct tls_server *t, const struct tls_server_params *p)
{
    const struct tls_server *best = NULL;
    uint8_t ip[16];
    int len;

    if (tls_host_ip(p->host, ip, &len) || covers(t, p->ipv4) || covers(t, p->ipv6))
        return;
    for (size_t i = 0; i < t->n_sides; i++)
        if ((covers(t->sides[i], p->ipv4) || covers(t->sides[i], p->ipv6)) &&
            (!best || t->sides[i]->not_after > best->not_after))
            best = t->sides[i];
    if (best && SSL_CTX_up_ref(best->ctx))
        s->nameless = best->ctx;
}

int tls_sni_setup(struct tls_server *t, const struct tls_server_params *p)
{
    struct sni *s = t->n_sides ? calloc(1, sizeof *s) : NULL;
    int rc = 0;

    if (t->n_sides == 0)
        return 0;
    pthread_once(&sni_once, make_index);
    if (!s || sni_index < 0)
        goto fail;
    rc = add_names(s, SSL_CTX_get0_certificate(t->ctx), NULL, 0);
    for (size_t i = 0; rc == 0 && i < t->n_sides; i++)
        rc = add_names(s, SSL_CTX_get0_certificate(t->sides[i]->ctx), t->sides[i]->ctx,
                       t->sides[i]->not_after);
    if (s->n > 0)
        qsort(s->v, s->n, sizeof *s->v, by_name);
    find_nameless(s, t, p);
    if (rc != 0 || !SSL_CTX_set_ex_data(t->ctx, sni_index, s))
        goto fail;
    SSL_CTX_set_tlsext_servername_callback(t->ctx, on_server_name);
    return 0;

fail:
    sni_free(s);
    return -1;
}
