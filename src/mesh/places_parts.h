/* What places.c and places_sets.c share. */
#ifndef DERPMESH_MESH_PLACES_PARTS_H
#define DERPMESH_MESH_PLACES_PARTS_H

#include "mesh/places.h"

enum {
    PLACE_USED = 1,
    PLACE_HOME = 2,
    PLACE_GLEANED = 4,
    PLACE_PARITY = 8,  /* in which of its peer's two slot tables it stands */
    PLACE_ROUTED = 16, /* the one that ops->route was told */
    PLACE_DERPER = 32, /* not of the peer itself: it forwards to a derper of its region, … */
    PLACE_LOST = 64    /* … which it does not reach at the moment */
};

/* The next one of the same key, or NULL. */
struct place *place_next(const struct mesh *m, const struct place *l);
/* The one of that node, or NULL. */
struct place *place_find(const struct mesh *m, struct place *first, uint32_t node);
bool place_reachable(const struct mesh *m, const struct place *l);
/* The flags of the entry that a place was made from. */
uint32_t place_flags(const struct place *l);
/* An announced place enters its peer's digest, or leaves it. */
void place_sum(struct peer *p, const struct place *l, const struct derp_key *key);
/* Takes a peer's place out of the entry at pos of the key map.  announced: its owner said so. */
void place_remove(struct mesh *m, size_t pos, struct peer *p, bool announced);
/* Tells the route of the entry at pos if the best place is another than the one told. */
void place_route(struct mesh *m, size_t pos);
/* Forgets what was gleaned of a peer. */
void places_unglean(struct mesh *m, struct peer *p);

#endif
