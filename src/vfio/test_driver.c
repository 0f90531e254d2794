/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The built-in test devices (USERKVM_VFIO=test): "test0" needs a VM and is coherent, "test1" does neither. They
 * do on command whatever a driver may do, so that programs which speak only the ABI can drive all of it.
 *
 *	region 0	registers of 8 bytes, below; from 0x800 on a buffer of 2 KiB
 *	region 1	64 KiB of memory, mmap-able
 *	region 2	16 bytes that can only be read
 *	irq 0		4 vectors
 *	irq 1		1 vector
 *
 * A command uses ADDR, LEN, VALUE as they stand and is executed by the write of COMMAND itself; RESULT is what
 * it returned.
 */
#include <sched.h>

#include "vfio/device.h"

enum reg {
	ID = 0x00,	/* read-only: "userkvm\0" */
	ADDR = 0x08,	/* iova or guest-physical address */
	LEN = 0x10,	/* bytes of the buffer */
	VALUE = 0x18,	/* a command's other argument */
	COMMAND = 0x20, /* write: executes */
	RESULT = 0x28,	/* of the last command */
	WRITES = 0x30,	/* guest writes that tracking told of */
	LAST_GPA = 0x38,
	LAST_LEN = 0x40,
	LAST_DATA = 0x48, /* its first 8 bytes */
	REMOVED = 0x50,	  /* slots with tracked pages that went */
	UNMAPS = 0x58,	  /* dma_unmap notices */
	RESETS = 0x60,
	OPENS = 0x68, /* since the process began */
	ENDED = 0x70, /* pins that ended by themselves */
	REGS_END = 0x78,
	BUFFER = 0x800,
	REGION_SIZE = 0x1000,
};

enum command {
	DMA_READ = 1,  /* buffer <- ADDR */
	DMA_WRITE = 2, /* ADDR <- buffer */
	VM_READ = 3,
	VM_WRITE = 4,
	IRQ = 5, /* VALUE: interrupt << 32 | vector */
	MSI = 6, /* ADDR, VALUE: data */
	TRACK_ON = 7,
	TRACK_OFF = 8,
	TRACK_ADD = 9, /* ADDR: a byte of the page */
	TRACK_DEL = 10,
	PIN = 11, /* [ADDR, ADDR + LEN), VALUE: for writing */
	UNPIN = 12,
	PIN_LOAD = 13,	/* buffer <- VALUE bytes of the pin */
	PIN_STORE = 14, /* pin <- VALUE bytes of the buffer */
};

/* PINNED: pin.host may be used by those who are counted in users. */
enum pin_state { NOT_PINNED, PINNING, PINNED, ENDED_ITSELF };

struct test_device {
	struct userkvm_device *dev;
	_Atomic uint64_t regs[REGS_END / 8];
	_Atomic uint8_t buffer[REGION_SIZE - BUFFER];
	_Atomic bool tracking;
	struct userkvm_track track;
	_Atomic bool pinning; /* unpin is due */
	_Atomic enum pin_state state;
	_Atomic unsigned users;
	struct userkvm_pin pin;
};

static _Atomic uint64_t opens;

static _Atomic uint64_t *reg(struct test_device *t, enum reg r)
{
	return &t->regs[r / 8];
}

/* -- Tracking -- */

static void tracked_write(struct userkvm_track *track, uint64_t gpa, const void *data, unsigned len)
{
	struct test_device *t = container_of(track, struct test_device, track);
	uint64_t first = 0;

	memcpy(&first, data, MIN(len, 8U));
	atomic_store(reg(t, LAST_GPA), gpa);
	atomic_store(reg(t, LAST_LEN), len);
	atomic_store(reg(t, LAST_DATA), first);
	atomic_fetch_add(reg(t, WRITES), 1);
}

static void tracked_removed(struct userkvm_track *track, uint64_t gfn, uint64_t npages)
{
	struct test_device *t = container_of(track, struct test_device, track);

	atomic_fetch_add(reg(t, REMOVED), 1);
}

static long set_tracking(struct test_device *t, bool on)
{
	bool was = !on;
	long r = 0;

	if (!atomic_compare_exchange_strong(&t->tracking, &was, on))
		return -EINVAL;
	if (!on)
		userkvm_track_unregister(t->dev, &t->track);
	else
		r = userkvm_track_register(t->dev, &t->track);
	if (r)
		atomic_store(&t->tracking, false);
	return r;
}

/* -- A pin -- */

static void pin_removed(struct userkvm_pin *pin)
{
	struct test_device *t = container_of(pin, struct test_device, pin);

	atomic_store(&t->state, ENDED_ITSELF);
	while (atomic_load(&t->users))
		sched_yield();
	atomic_fetch_add(reg(t, ENDED), 1);
}

static long set_pin(struct test_device *t, bool on, uint64_t addr, uint64_t value)
{
	enum pin_state pinning = PINNING;
	bool was = !on;
	int r;

	if (!atomic_compare_exchange_strong(&t->pinning, &was, on))
		return -EINVAL;
	if (!on) {
		atomic_store(&t->state, NOT_PINNED);
		userkvm_vm_unpin(t->dev, &t->pin);
		return 0;
	}
	t->pin = (struct userkvm_pin){
	    .gpa = addr, .len = atomic_load(reg(t, LEN)), .write = value != 0, .removed = pin_removed};
	atomic_store(&t->state, PINNING);
	r = userkvm_vm_pin(t->dev, &t->pin);
	/* It may have ended already. */
	if (!r)
		atomic_compare_exchange_strong(&t->state, &pinning, PINNED);
	else
		atomic_store(&t->pinning, false);
	return r;
}

/* The pin's memory, through its address. */
static long use_pin(struct test_device *t, bool store, uint64_t len)
{
	uint8_t *host;

	atomic_fetch_add(&t->users, 1);
	if (atomic_load(&t->state) != PINNED || len > t->pin.len || len > sizeof(t->buffer)) {
		atomic_fetch_sub(&t->users, 1);
		return -EINVAL;
	}
	host = t->pin.host;
	for (size_t n = 0; n < len; n++) {
		if (store)
			host[n] = atomic_load_explicit(&t->buffer[n], memory_order_relaxed);
		else
			atomic_store_explicit(&t->buffer[n], host[n], memory_order_relaxed);
	}
	atomic_fetch_sub(&t->users, 1);
	return store ? userkvm_vm_dirty(t->dev, t->pin.gpa, len) : 0;
}

/* -- Commands -- */

/* Copies between the buffer and memory; the direction is the command's. */
static long copy(struct test_device *t, enum command c, uint64_t addr, size_t len)
{
	uint8_t buf[sizeof(t->buffer)];
	long r;

	if (len > sizeof(buf))
		return -EINVAL;
	for (size_t n = 0; n < len; n++)
		buf[n] = atomic_load_explicit(&t->buffer[n], memory_order_relaxed);
	switch (c) {
	case DMA_READ: r = userkvm_dma_read(t->dev, addr, buf, len); break;
	case DMA_WRITE: r = userkvm_dma_write(t->dev, addr, buf, len); break;
	case VM_READ: r = userkvm_vm_read(t->dev, addr, buf, len); break;
	default: r = userkvm_vm_write(t->dev, addr, buf, len); break;
	}
	for (size_t n = 0; n < len && !r; n++)
		atomic_store_explicit(&t->buffer[n], buf[n], memory_order_relaxed);
	return r;
}

static long execute(struct test_device *t, uint64_t command)
{
	uint64_t addr = atomic_load(reg(t, ADDR)), value = atomic_load(reg(t, VALUE));

	switch (command) {
	case DMA_READ:
	case DMA_WRITE:
	case VM_READ:
	case VM_WRITE: return copy(t, (enum command)command, addr, atomic_load(reg(t, LEN)));
	case IRQ: return userkvm_irq_signal(t->dev, (unsigned)(value >> 32), (unsigned)value);
	case MSI: return userkvm_vm_msi(t->dev, addr, (uint32_t)value);
	case TRACK_ON: return set_tracking(t, true);
	case TRACK_OFF: return set_tracking(t, false);
	case TRACK_ADD: return userkvm_track_add(t->dev, addr >> PAGE_SHIFT);
	case TRACK_DEL: return userkvm_track_del(t->dev, addr >> PAGE_SHIFT);
	case PIN: return set_pin(t, true, addr, value);
	case UNPIN: return set_pin(t, false, 0, 0);
	case PIN_LOAD: return use_pin(t, false, value);
	case PIN_STORE: return use_pin(t, true, value);
	default: return -EINVAL;
	}
}

/* -- The driver -- */

static int test_open(struct userkvm_device *dev, void **state)
{
	struct test_device *t = base_zalloc(sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->dev = dev;
	t->track = (struct userkvm_track){.write = tracked_write, .removed = tracked_removed};
	atomic_store(reg(t, ID), 0x006d766b72657375); /* "userkvm" */
	atomic_store(reg(t, OPENS), atomic_fetch_add(&opens, 1) + 1);
	*state = t;
	return 0;
}

static void test_close(void *state)
{
	struct test_device *t = state;

	if (atomic_load(&t->tracking))
		userkvm_track_unregister(t->dev, &t->track);
	if (atomic_load(&t->pinning))
		userkvm_vm_unpin(t->dev, &t->pin);
	base_free(t);
}

static long test_read(void *state, unsigned region, uint64_t pos, void *buf, size_t len)
{
	struct test_device *t = state;
	uint64_t val;

	if (region == 1)
		memcpy(buf, (uint8_t *)userkvm_region_memory(t->dev, 1) + pos, len);
	if (region == 2)
		memset(buf, 0x5a, len);
	if (region)
		return (long)len;
	if (pos >= BUFFER) {
		for (size_t n = 0; n < len; n++)
			((uint8_t *)buf)[n] =
			    atomic_load_explicit(&t->buffer[pos - BUFFER + n], memory_order_relaxed);
		return (long)len;
	}
	if (pos % 8 || len != 8 || pos >= REGS_END)
		return -EINVAL;
	val = atomic_load(&t->regs[pos / 8]);
	memcpy(buf, &val, sizeof(val));
	return 8;
}

static long test_write(void *state, unsigned region, uint64_t pos, const void *buf, size_t len)
{
	struct test_device *t = state;
	uint64_t val;

	if (region == 1) {
		memcpy((uint8_t *)userkvm_region_memory(t->dev, 1) + pos, buf, len);
		return (long)len;
	}
	if (region == 2)
		return (long)len; /* not reached: the library knows that it cannot be written */
	if (pos >= BUFFER) {
		for (size_t n = 0; n < len; n++)
			atomic_store_explicit(&t->buffer[pos - BUFFER + n], ((const uint8_t *)buf)[n],
					      memory_order_relaxed);
		return (long)len;
	}
	if (pos % 8 || len != 8 || pos < ADDR || pos > COMMAND)
		return -EINVAL;
	memcpy(&val, buf, sizeof(val));
	if (pos == COMMAND)
		atomic_store(reg(t, RESULT), (uint64_t)execute(t, val));
	else
		atomic_store(&t->regs[pos / 8], val);
	return 8;
}

static void test_dma_unmap(void *state, uint64_t iova, uint64_t len)
{
	struct test_device *t = state;

	atomic_fetch_add(reg(t, UNMAPS), 1);
}

static int test_reset(void *state)
{
	struct test_device *t = state;

	atomic_store(reg(t, ADDR), 0);
	atomic_store(reg(t, LEN), 0);
	atomic_store(reg(t, VALUE), 0);
	atomic_store(reg(t, RESULT), 0);
	atomic_fetch_add(reg(t, RESETS), 1);
	return 0;
}

static const struct userkvm_region regions[] = {
    {.size = REGION_SIZE, .flags = USERKVM_REGION_READ | USERKVM_REGION_WRITE},
    {.size = 64 << 10, .flags = USERKVM_REGION_READ | USERKVM_REGION_WRITE | USERKVM_REGION_MMAP},
    {.size = 16, .flags = USERKVM_REGION_READ},
};

static const struct userkvm_irq irqs[] = {{.count = 4}, {.count = 1}};

#define TEST_DRIVER(name_, flags_)                                                              \
	{                                                                                       \
		.api = USERKVM_DRIVER_API, .flags = flags_, .name = name_, .regions = regions,  \
		.nr_regions = ARRAY_SIZE(regions), .irqs = irqs, .nr_irqs = ARRAY_SIZE(irqs),   \
		.open = test_open, .close = test_close, .read = test_read, .write = test_write, \
		.dma_unmap = test_dma_unmap, .reset = test_reset,                               \
	}

const struct userkvm_driver vfio_test_drivers[2] = {
    TEST_DRIVER("test0", USERKVM_NEEDS_KVM | USERKVM_COHERENT),
    TEST_DRIVER("test1", 0),
};
