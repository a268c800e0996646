/* derpmesh map check|show|export: what an operator does with a derpMap file. */
#ifndef DERPMESH_CLI_MAP_H
#define DERPMESH_CLI_MAP_H

/* argv[0] is "map".  The program's exit code: 0 fine, 1 the map is at fault, 2 wrong use, 3 could not run. */
int cli_map(int argc, char **argv);

#endif
