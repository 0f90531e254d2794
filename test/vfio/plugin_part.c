/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A driver of its own, built by the tests with nothing but the public header:
 *	cc -shared -fPIC -Iinclude -o plugin.so test/vfio/plugin_part.c
 * BAD_API, BAD_REGION: one that the library must refuse.
 */
#include <errno.h>
#include <stdlib.h>

#include <userkvm_driver.h>

#define GET_BYTE 0x1234 /* arg: guest-physical address; its byte */

#ifndef BAD_API
#define BAD_API USERKVM_DRIVER_API
#endif
#ifndef BAD_REGION
#define BAD_REGION 4096
#endif

struct state {
	struct userkvm_device *dev;
};

static int plug_open(struct userkvm_device *dev, void **state)
{
	struct state *s = malloc(sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->dev = dev;
	*state = s;
	return 0;
}

static void plug_close(void *state)
{
	free(state);
}

#ifndef BAD
static long plug_ioctl(void *state, uint32_t request, void *arg)
{
	struct state *s = state;
	uint8_t byte;
	int r;

	if (request != GET_BYTE)
		return -ENOTTY;
	r = userkvm_vm_read(s->dev, (uintptr_t)arg, &byte, 1);
	return r ? r : byte;
}
#else
#define plug_ioctl NULL
#endif

static const struct userkvm_region regions[] = {
    {.size = BAD_REGION, .flags = USERKVM_REGION_READ | USERKVM_REGION_WRITE | USERKVM_REGION_MMAP},
    {.size = 16, .flags = USERKVM_REGION_READ},
};

const struct userkvm_driver userkvm_driver = {
    .api = BAD_API,
    .flags = USERKVM_NEEDS_KVM,
    .name = "plug0",
    .regions = regions,
    .nr_regions = 2,
    .open = plug_open,
    .close = plug_close,
    .ioctl = plug_ioctl,
};
