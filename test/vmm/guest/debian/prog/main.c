/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "soak.h"
#include <stdio.h>
#include <stdlib.h>

void expect(int ok, const char *what)
{
	if (ok)
		return;
	printf("WRONG %s\n", what);
	fflush(stdout);
	fprintf(stderr, "soak: %s is wrong\n", what);
	exit(1);
}

static const struct {
	const char *name;
	void (*run)(uint64_t seed);
} parts[] = {
    {"digest", part_digest}, {"numbers", part_numbers}, {"sort", part_sort},	   {"pack", part_pack},
    {"float", part_float},   {"threads", part_threads}, {"process", part_process},
};

int main(int argc, char **argv)
{
	uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		printf("part %s\n", parts[i].name);
		parts[i].run(seed);
	}
	puts("end");
	return 0;
}
