/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The vector and x87 state as a whole: its life, its XSAVE components, and its exchange with the outside
 * (KVM_GET/SET_FPU, _XSAVE, _XCRS).
 */
#include <immintrin.h>

#include "engine/fpu.h"

_Static_assert(offsetof(struct engine_fpu, x87) % 64 == 0, "XSAVE areas are 64-byte aligned");
_Static_assert(offsetof(struct engine_fpu, x87_out) % 64 == 0, "XSAVE areas are 64-byte aligned");
_Static_assert(offsetof(struct engine_fpu, mem) % 64 == 0, "aligned forms access it");
_Static_assert(offsetof(struct x87_image, header) == 512, "the XSAVE header");

/* -- Life -- */

static void x87_init(struct x87_image *x)
{
	memset(x, 0, sizeof(*x));
	x->fcw = FCW_INIT;
	x->header[0] = XF_X87;
}

int fpu_create(struct engine_cpu *c)
{
	c->fpu = base_zalloc_aligned(64, sizeof(*c->fpu));
	if (!c->fpu)
		return -ENOMEM;
	fpu_reset(c, false);
	return 0;
}

void fpu_destroy(struct engine_cpu *c)
{
	if (!c->fpu)
		return;
	stub_put_private(c->fpu);
	base_free(c->fpu);
	c->fpu = NULL;
}

/* Power-on is what KVM starts a vCPU with: the state of FNINIT and of XRSTOR's init. INIT changes nothing. */
void fpu_reset(struct engine_cpu *c, bool init)
{
	struct engine_fpu *f = c->fpu;

	if (init)
		return;
	memset(f->zmm, 0, sizeof(f->zmm));
	memset(f->k, 0, sizeof(f->k));
	x87_init(&f->x87);
	f->fcs = f->fds = 0;
	f->mxcsr = MXCSR_INIT;
	f->pkru = 0;
	c->xcr0 = XF_X87;
}

/* -- x87 -- */

void x87_canonical(struct engine_fpu *f)
{
	uint16_t fcw;

	memset(f->x87.header, 0, sizeof(f->x87.header));
	f->x87.header[0] = XF_X87;
	__asm__ volatile("fnstcw %[cw]\n\t"
			 "xrstor64 %[x]\n\t"
			 "xsave64 %[x]\n\t"
			 "fninit\n\t"
			 "fldcw %[cw]"
			 : [x] "+m"(f->x87), [cw] "=m"(fcw)
			 : "a"(1), "d"(0)
			 : "memory");
	f->x87.header[0] = XF_X87;
}

void x87_set_top(struct x87_image *x, unsigned top)
{
	unsigned by = (top - FSW_TOP(x->fsw)) & 7;
	uint8_t st[8][16];

	if (!by)
		return;
	memcpy(st, x->st, sizeof(st));
	for (unsigned n = 0; n < 8; n++)
		memcpy(x->st[n], st[(n + by) & 7], 16);
	x->fsw = (x->fsw & ~(7u << 11)) | top << 11;
}

/* FNINIT: the registers keep their contents, all tags say empty. */
void x87_fninit(struct engine_fpu *f)
{
	struct x87_image *x = &f->x87;

	x87_set_top(x, 0);
	x->fcw = FCW_INIT;
	x->fsw = 0;
	x->ftw = 0;
	x->fop = 0;
	x->fip = x->fdp = 0;
	f->fcs = f->fds = 0;
}

/* -- Components -- */

static bool all_zero(const void *p, size_t len)
{
	const uint64_t *w = p;

	for (size_t n = 0; n < len / 8; n++)
		if (w[n])
			return false;
	return true;
}

static bool any_bit(__m128i v)
{
	return _mm_movemask_epi8(_mm_cmpeq_epi8(v, _mm_setzero_si128())) != 0xffff;
}

/* The vector components, all registers at once: what is in use is asked for at each context switch. */
static uint64_t vectors_used(const struct engine_fpu *f)
{
	__m128i sse = _mm_setzero_si128(), avx = sse, high = sse, hi16 = sse;
	const __m128i *z = (const __m128i *)f->zmm;

	for (unsigned r = 0; r < 16; r++, z += 4) {
		sse = _mm_or_si128(sse, z[0]);
		avx = _mm_or_si128(avx, z[1]);
		high = _mm_or_si128(high, _mm_or_si128(z[2], z[3]));
	}
	for (unsigned r = 16; r < 32; r++, z += 4)
		hi16 = _mm_or_si128(hi16, _mm_or_si128(_mm_or_si128(z[0], z[1]), _mm_or_si128(z[2], z[3])));
	return (any_bit(sse) ? XF_SSE : 0) | (any_bit(avx) ? XF_AVX : 0) | (any_bit(high) ? XF_ZMM_HI : 0) |
	       (any_bit(hi16) ? XF_HI16 : 0);
}

/* The components that are not in their initial configuration (XINUSE); MXCSR is no part of it. */
uint64_t fpu_in_use(const struct engine_fpu *f)
{
	const struct x87_image *x = &f->x87;
	uint64_t used = vectors_used(f);

	if (x->fcw != FCW_INIT || x->fsw || x->ftw || x->fop || x->fip || x->fdp ||
	    !all_zero(x->st, sizeof(x->st)))
		used |= XF_X87;
	if (!all_zero(f->k, sizeof(f->k)))
		used |= XF_OPMASK;
	return used & host_cpu.xcr0;
}

/* Which bytes of which vector registers a component (1, 2, 6, 7) is; the others (MPX) have none. */
static void component_shape(unsigned n, unsigned *first, unsigned *from, unsigned *len)
{
	*first = n == 7 ? 16 : 0;
	*from = n == 2 ? 16 : n == 6 ? 32 : 0;
	*len = n == 7 ? 64 : n == 6 ? 32 : n == 1 || n == 2 ? 16 : 0;
}

/* One register's part of a component: 16, 32 or 64 bytes. */
static inline void copy_part(void *to, const void *from, unsigned len)
{
	if (len == 16)
		memcpy(to, from, 16);
	else if (len == 32)
		memcpy(to, from, 32);
	else if (len == 64)
		memcpy(to, from, 64);
}

void fpu_component_out(const struct engine_fpu *f, unsigned n, void *to, unsigned regs)
{
	unsigned first, from, len;

	if (n == 5) {
		memcpy(to, f->k, sizeof(f->k));
		return;
	}
	component_shape(n, &first, &from, &len);
	for (unsigned r = 0; r < regs; r++)
		copy_part((uint8_t *)to + r * len, f->zmm[first + r] + from, len);
}

void fpu_component_in(struct engine_fpu *f, unsigned n, const void *from_mem, unsigned regs)
{
	unsigned first, from, len;

	if (n == 5) {
		memcpy(f->k, from_mem, sizeof(f->k));
		return;
	}
	component_shape(n, &first, &from, &len);
	for (unsigned r = 0; r < regs; r++)
		copy_part(f->zmm[first + r] + from, (const uint8_t *)from_mem + r * len, len);
}

void fpu_component_init(struct engine_fpu *f, unsigned n, unsigned regs)
{
	static const uint8_t zero[64];
	unsigned first, from, len;

	if (n == 0) {
		x87_init(&f->x87);
		f->fcs = f->fds = 0;
		return;
	}
	if (n == 5) {
		memset(f->k, 0, sizeof(f->k));
		return;
	}
	component_shape(n, &first, &from, &len);
	for (unsigned r = 0; r < regs; r++)
		copy_part(f->zmm[first + r] + from, zero, len);
}

/* The legacy region without the XMM registers: 160 bytes, pointers in 64-bit form. */
void fpu_legacy_out(const struct engine_fpu *f, uint8_t *area)
{
	memcpy(area, &f->x87, 24);
	memcpy(area + 24, &f->mxcsr, 4);
	memcpy(area + 28, &host_cpu.mxcsr_mask, 4);
	memcpy(area + 32, f->x87.st, sizeof(f->x87.st));
}

void fpu_legacy_in(struct engine_fpu *f, const uint8_t *area)
{
	f->fcs = f->fds = 0;
	/* What is there already is as the host's CPU has it. */
	if (!memcmp(&f->x87, area, 24) && !memcmp(f->x87.st, area + 32, sizeof(f->x87.st)))
		return;
	memcpy(&f->x87, area, 24);
	memcpy(f->x87.st, area + 32, sizeof(f->x87.st));
	x87_canonical(f);
}

/* -- Exchange: KVM_GET/SET_FPU -- */

/* As KVM, these leave MXCSR out (it travels by KVM_GET/SET_XSAVE). */
void engine_get_fpu(const struct engine_cpu *c, struct kvm_fpu *out)
{
	const struct x87_image *x = &c->fpu->x87;

	memcpy(out->fpr, x->st, sizeof(out->fpr));
	out->fcw = x->fcw;
	out->fsw = x->fsw;
	out->ftwx = x->ftw;
	out->last_opcode = x->fop;
	out->last_ip = x->fip;
	out->last_dp = x->fdp;
	fpu_component_out(c->fpu, 1, out->xmm, 16);
}

void engine_set_fpu(struct engine_cpu *c, const struct kvm_fpu *in)
{
	struct x87_image *x = &c->fpu->x87;

	memcpy(x->st, in->fpr, sizeof(x->st));
	x->fcw = in->fcw;
	x->fsw = in->fsw;
	x->ftw = in->ftwx;
	x->fop = in->last_opcode;
	x->fip = in->last_ip;
	x->fdp = in->last_dp;
	x87_canonical(c->fpu);
	fpu_component_in(c->fpu, 1, in->xmm, 16);
}

/* -- Exchange: XSAVE areas -- */

uint64_t engine_xcr0_host(void)
{
	return host_cpu.xcr0;
}

uint32_t engine_xsave_size(uint64_t components, bool compacted)
{
	uint32_t size = 576;

	for (unsigned n = 2; n < 8; n++) {
		if (!(components & host_cpu.xcr0 & BIT(n)))
			continue;
		if (!compacted) {
			size = MAX(size, host_cpu.off[n] + host_cpu.size[n]);
			continue;
		}
		if (host_cpu.align64[n])
			size = (size + 63) & ~63u;
		size += host_cpu.size[n];
	}
	return size;
}

void engine_get_xsave(const struct engine_cpu *c, void *area, uint32_t size)
{
	const struct engine_fpu *f = c->fpu;
	uint64_t used = fpu_in_use(f);
	uint8_t *a = area;

	memset(a, 0, size);
	fpu_legacy_out(f, a);
	fpu_component_out(f, 1, a + 160, 16);
	for (unsigned n = 2; n < 8; n++)
		if (host_cpu.xcr0 & BIT(n) && host_cpu.off[n] + host_cpu.size[n] <= size)
			fpu_component_out(f, n, a + host_cpu.off[n], 16);
	memcpy(a + 512, &used, 8);
}

/* A header and an MXCSR that the kernel would take. */
static bool xsave_acceptable(const uint8_t *a, uint32_t size, uint64_t bv)
{
	uint32_t mxcsr;

	memcpy(&mxcsr, a + 24, 4);
	if (size < 576 || bv & ~host_cpu.xcr0 || !all_zero(a + 520, 56))
		return false;
	if (bv & (XF_X87 | XF_SSE | XF_AVX) && mxcsr & ~host_cpu.mxcsr_mask)
		return false;
	return engine_xsave_size(bv, false) <= size;
}

int engine_set_xsave(struct engine_cpu *c, const void *area, uint32_t size)
{
	struct engine_fpu *f = c->fpu;
	const uint8_t *a = area;
	uint64_t bv;

	memcpy(&bv, a + 512, 8);
	if (!xsave_acceptable(a, size, bv))
		return -EINVAL;
	if (bv & XF_X87)
		fpu_legacy_in(f, a);
	else
		fpu_component_init(f, 0, 0);
	for (unsigned n = 1; n < 8; n++) {
		if (bv & BIT(n))
			fpu_component_in(f, n, a + host_cpu.off[n], 16);
		else
			fpu_component_init(f, n, 16);
	}
	f->mxcsr = MXCSR_INIT;
	if (bv & (XF_X87 | XF_SSE | XF_AVX))
		memcpy(&f->mxcsr, a + 24, 4);
	return 0;
}

/* -- Exchange: XCR0, PKRU -- */

uint64_t engine_get_xcr0(const struct engine_cpu *c)
{
	return c->xcr0;
}

int engine_set_xcr0(struct engine_cpu *c, uint64_t v)
{
	uint64_t allowed = (c->feat.xcr0_allowed | XF_X87) & host_cpu.xcr0;

	if (!(v & XF_X87) || v & ~allowed)
		return -EINVAL;
	if (v & XF_AVX && !(v & XF_SSE))
		return -EINVAL;
	if (v & XF_AVX512 && ((v & XF_AVX512) != XF_AVX512 || !(v & XF_AVX)))
		return -EINVAL;
	c->xcr0 = v;
	return 0;
}
