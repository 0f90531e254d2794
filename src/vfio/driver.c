/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where devices come from: USERKVM_VFIO names drivers, each of which becomes a device in a group of its own.
 * A driver library is loaded by the first file of its device and unloaded after the last one (systems.md A6).
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/sys.h"
#include "base/mutate.h"
#include "vfio/device.h"

#define DRIVER_SYMBOL "userkvm_driver"

struct vfio_device vfio_devices[VFIO_MAX_DEVICES];
struct vfio_group vfio_groups[VFIO_MAX_DEVICES];
unsigned vfio_nr_devices;

static struct vfio_plugin plugins[VFIO_MAX_DEVICES];
static struct mutex plugin_lock = {.role = LOCK_VFIO_PLUGIN};

/* -- The list -- */

/* Everything of a device and its group that no open has changed yet. */
static void reset_device(unsigned index)
{
	struct vfio_device *dev = &vfio_devices[index];
	struct vfio_group *g = &vfio_groups[index];

	*dev = (struct vfio_device){
	    .plugin = &plugins[index],
	    .drv = dev->drv,
	    .index = index,
	    .group = g,
	    .mem_fd = -1,
	};
	mutex_init(&dev->set.lock, LOCK_VFIO_DEVSET);
	spin_init(&dev->irq_lock, LOCK_VFIO_IRQ);
	*g = (struct vfio_group){.device = dev};
	mutex_init(&g->lock, LOCK_VFIO_GROUP);
	link_init(&g->link);
}

/* In a forked child: the parent's opens are not ours. A library that is loaded stays so. */
static void vfio_forked(void)
{
	mutex_forked(&plugin_lock);
	for (unsigned n = 0; n < vfio_nr_devices; n++) {
		if (!plugins[n].handle)
			plugins[n].users = 0;
		sys_fd_close(vfio_devices[n].mem_fd);
		reset_device(n);
	}
}

static void add(const char *path, const struct userkvm_driver *builtin)
{
	if (vfio_nr_devices == VFIO_MAX_DEVICES)
		return;
	plugins[vfio_nr_devices] = (struct vfio_plugin){.path = path};
	vfio_devices[vfio_nr_devices].drv = builtin;
	reset_device(vfio_nr_devices++);
}

void vfio_init(void)
{
	const char *s = getenv("USERKVM_VFIO");
	char *list, *name, *next = NULL;
	bool paths = false;

	if (!s || !*s || vfio_nr_devices)
		return;
	list = base_zalloc(strlen(s) + 1); /* the plug-ins' paths from now on */
	if (!list)
		return;
	strcpy(list, s);
	for (name = strtok_r(list, ":", &next); name; name = strtok_r(NULL, ":", &next)) {
		if (strcmp(name, "test")) {
			add(name, NULL);
			paths = true;
			continue;
		}
		for (unsigned n = 0; n < ARRAY_SIZE(vfio_test_drivers); n++)
			add(NULL, &vfio_test_drivers[n]);
	}
	if (!paths)
		base_free(list);
	owner_on_fork(vfio_forked);
}

/* -- Loading -- */

/* Refuses a table that this library cannot serve. */
static bool is_usable(const struct userkvm_driver *d)
{
	uint64_t vectors = 0;

	if (d->api != USERKVM_DRIVER_API || !d->name || !d->open || !d->close)
		return false;
	for (unsigned n = 0; n < d->nr_irqs; n++)
		vectors += d->irqs[n].count;
	if (vectors > VFIO_MAX_VECTORS)
		return false;
	for (unsigned n = 0; n < d->nr_regions; n++) {
		const struct userkvm_region *g = &d->regions[n];

		if (g->size > VFIO_REGION_OFF_MASK ||
		    (g->flags & USERKVM_REGION_MMAP && (g->size & PAGE_OFFSET_MASK)))
			return false;
	}
	return true;
}

static void unload(void *handle)
{
	if (!handle)
		return;
	lock_host_enter();
	dlclose(handle);
	lock_host_leave();
}

/* One more reference to the library, which the loader counts. No lock of ours is held: the loader runs constructors,
 * others' included, under its own. */
static int load(const struct vfio_plugin *p, void **handle, const struct userkvm_driver **d)
{
	const char *why;

	lock_host_enter();
	*handle = dlopen(p->path, RTLD_NOW | RTLD_LOCAL);
	lock_host_leave();
	why = *handle ? "no driver table that this version knows" : dlerror();
	*d = *handle ? dlsym(*handle, DRIVER_SYMBOL) : NULL;
	if (*d && is_usable(*d))
		return 0;
	unload(*handle);
	base_log(LOG_ERROR, "vfio: %s: %s", p->path, why);
	return -ENODEV;
}

int plugin_get(struct vfio_device *dev)
{
	const struct userkvm_driver *d = NULL;
	struct vfio_plugin *p = dev->plugin;
	void *handle = NULL;
	int r;

	if (mutated(MUTATE_LOAD_IN_LOCK))
		mutex_lock(&plugin_lock);
	r = p->path ? load(p, &handle, &d) : 0;
	if (!mutated(MUTATE_LOAD_IN_LOCK))
		mutex_lock(&plugin_lock);
	if (!r)
		p->users++;
	if (handle && !r) {
		p->handle = handle; /* the same for each user */
		dev->drv = d;
	}
	mutex_unlock(&plugin_lock);
	return r;
}

void plugin_put(struct vfio_device *dev)
{
	struct vfio_plugin *p = dev->plugin;
	void *handle;

	mutex_lock(&plugin_lock);
	base_bug_on(!p->users);
	handle = p->handle;
	if (!--p->users && handle) {
		dev->drv = NULL;
		p->handle = NULL;
	}
	mutex_unlock(&plugin_lock);
	unload(handle);
}
