/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The MSRs of this room, sorted by index (looked up by bisection). The engine's own are not here; the x2APIC
 * range is handled before the table.
 *
 * MSR(first, last, arg, get, set, flags)
 * F(field) is an offset into struct vcpu_msrs. Rows without guest semantics read and write as KVM's do.
 */
/* clang-format off */
MSR(0x00000000, 0x00000001, 0, get_const, NULL, 0)			 /* P5_MC_ADDR, P5_MC_TYPE */
MSR(0x00000010, 0x00000010, 0, get_tsc, set_tsc, MSR_LISTED)		 /* IA32_TSC */
MSR(0x00000011, 0x00000012, 0, get_pv, set_pv, MSR_LISTED)		 /* KVM_WALL_CLOCK, KVM_SYSTEM_TIME */
MSR(0x00000017, 0x00000017, 0, get_const, NULL, 0)			 /* IA32_PLATFORM_ID */
MSR(0x0000001b, 0x0000001b, 0, get_apic_base, set_apic_base, 0)		 /* IA32_APIC_BASE */
MSR(0x0000002a, 0x0000002a, 0, get_const, NULL, 0)			 /* EBL_CR_POWERON */
MSR(0x0000002c, 0x0000002c, 1 << 24, get_const, NULL, 0)		 /* EBC_FREQUENCY_ID: P4, 133 MHz */
MSR(0x00000034, 0x00000034, F(smi_count), get_field, set_field, MSR_LISTED | MSR_HOST_W) /* SMI_COUNT */
MSR(0x0000003a, 0x0000003a, F(feat_ctl), get_feat_ctl, set_feat_ctl, 0)	 /* IA32_FEAT_CTL */
MSR(0x0000003b, 0x0000003b, 0, get_tsc_adjust, set_tsc_adjust, MSR_LISTED) /* IA32_TSC_ADJUST */
MSR(0x00000048, 0x00000048, F(spec_ctrl), get_spec_ctrl, set_spec_ctrl, MSR_LISTED) /* IA32_SPEC_CTRL */
MSR(0x00000049, 0x00000049, 0, NULL, set_pred_cmd, 0)			 /* IA32_PRED_CMD */
MSR(0x00000079, 0x00000079, 0, NULL, set_nothing, 0)			 /* IA32_UCODE_WRITE */
MSR(0x0000008b, 0x0000008b, F(ucode_rev), get_field, set_ucode_rev, MSR_LISTED) /* IA32_BIOS_SIGN_ID */
MSR(0x0000009e, 0x0000009e, 0, get_smbase, set_smbase, MSR_LISTED | MSR_HOST_R | MSR_HOST_W) /* IA32_SMBASE */
MSR(0x000000c1, 0x000000c2, 1, get_pmu, set_pmu, MSR_LISTED)		 /* PERFCTR0, 1 */
MSR(0x000000c3, 0x000000c4, 0, get_pmu, set_pmu, MSR_LISTED)		 /* PERFCTR2, 3 */
MSR(0x000000cd, 0x000000cd, 3, get_const, NULL, 0)			 /* FSB_FREQ */
MSR(0x000000ce, 0x000000ce, F(platform_info), get_platform_info, set_platform_info, MSR_LISTED | MSR_HOST_W)
MSR(0x000000fe, 0x000000fe, 0, get_mtrr, NULL, 0)			 /* IA32_MTRRCAP */
MSR(0x0000010a, 0x0000010a, F(arch_capabilities), get_arch_capabilities, set_field, MSR_LISTED | MSR_HOST_W)
MSR(0x0000010b, 0x0000010b, 0, NULL, set_flush_cmd, 0)			 /* IA32_FLUSH_CMD */
MSR(0x0000011e, 0x0000011e, 0xbe702111, get_const, set_nothing, 0)	 /* BBL_CR_CTL3 */
MSR(0x00000140, 0x00000140, F(misc_features_enables), get_field, set_misc_features, MSR_LISTED)
MSR(0x00000179, 0x00000179, 0, get_mce, NULL, 0)			 /* IA32_MCG_CAP */
MSR(0x0000017a, 0x0000017b, 0, get_mce, set_mce, MSR_LISTED)		 /* IA32_MCG_STATUS, CTL */
MSR(0x00000186, 0x00000187, 1, get_pmu, set_pmu, MSR_LISTED)		 /* EVNTSEL0, 1 */
MSR(0x00000188, 0x00000189, 0, get_pmu, set_pmu, MSR_LISTED)		 /* EVNTSEL2, 3 */
MSR(0x00000198, 0x00000198, 1000 | 4ULL << 40, get_const, NULL, 0)	 /* IA32_PERF_STATUS */
MSR(0x00000199, 0x00000199, 0, get_const, NULL, 0)			 /* IA32_PERF_CTL */
MSR(0x000001a0, 0x000001a0, F(misc_enable), get_field, set_misc_enable, MSR_LISTED) /* IA32_MISC_ENABLE */
MSR(0x000001d9, 0x000001d9, 0, get_const, set_debugctl, 0)		 /* IA32_DEBUGCTL */
MSR(0x000001db, 0x000001de, 0, get_const, NULL, 0)			 /* LASTBRANCH and LASTINT, from and to */
MSR(0x000001fc, 0x000001fc, F(power_ctl), get_field, set_field, MSR_LISTED) /* POWER_CTL */
MSR(0x00000200, 0x0000027f, 0, get_mtrr, set_mtrr, 0)			 /* MTRRs; PAT among them is the engine's */
MSR(0x00000280, 0x0000029f, 0, get_mce, set_mce, 0)			 /* IA32_MCi_CTL2 */
MSR(0x000002a0, 0x000002ff, 0, get_mtrr, set_mtrr, 0)			 /* MTRRs: the default type */
MSR(0x00000309, 0x0000030b, 0, get_pmu, set_pmu, MSR_LISTED)		 /* FIXED_CTR0..2 */
MSR(0x00000345, 0x00000345, 0, get_perf_capabilities, set_perf_capabilities, MSR_LISTED | MSR_HOST_W)
MSR(0x0000038d, 0x00000390, 0, get_pmu, set_pmu, MSR_LISTED)		 /* FIXED_CTR_CTRL, GLOBAL_STATUS, CTRL, OVF_CTRL */
MSR(0x00000400, 0x0000047f, 0, get_mce, set_mce, 0)			 /* IA32_MCi_* */
MSR(0x000004c1, 0x000004c4, 0, get_pmu, set_pmu, 0)			 /* PMC0..3, full width */
MSR(0x00000606, 0x00000606, 0, get_const, NULL, 0)			 /* RAPL_POWER_UNIT */
MSR(0x00000611, 0x00000611, 0, get_const, NULL, 0)			 /* PKG_ENERGY_STATUS */
MSR(0x00000619, 0x00000619, 0, get_const, NULL, 0)			 /* DRAM_ENERGY_STATUS */
MSR(0x00000639, 0x00000639, 0, get_const, NULL, 0)			 /* PP0_ENERGY_STATUS */
MSR(0x00000641, 0x00000641, 0, get_const, NULL, 0)			 /* PP1_ENERGY_STATUS */
MSR(0x000006e0, 0x000006e0, 0, get_tsc_deadline, set_tsc_deadline, MSR_LISTED) /* IA32_TSC_DEADLINE */
MSR(0x40000000, 0x40000003, 0, get_hyperv, set_hyperv, MSR_LISTED)	 /* HV GUEST_OS_ID, HYPERCALL, VP_INDEX, RESET */
MSR(0x40000010, 0x40000010, 0, get_hyperv, set_hyperv, MSR_LISTED)	 /* HV VP_RUNTIME */
MSR(0x40000020, 0x40000023, 0, get_hyperv, set_hyperv, MSR_LISTED)	 /* HV TIME_REF_COUNT, REFERENCE_TSC, frequencies */
MSR(0x40000070, 0x40000072, 0, get_hyperv, set_hyperv, 0)		 /* HV EOI, ICR, TPR */
MSR(0x40000073, 0x40000073, 0, get_hyperv, set_hyperv, MSR_LISTED)	 /* HV VP_ASSIST_PAGE */
MSR(0x40000080, 0x40000080, 0, get_hyperv, set_hyperv, MSR_LISTED)	 /* HV SCONTROL */
MSR(0x40000081, 0x4000009f, 0, get_hyperv, set_hyperv, 0)		 /* HV SVERSION, SIEFP, SIMP, EOM, SINT0..15 */
MSR(0x400000b0, 0x400000b0, 0, get_hyperv, set_hyperv, MSR_LISTED)	 /* HV STIMER0_CONFIG */
MSR(0x400000b1, 0x400000b7, 0, get_hyperv, set_hyperv, 0)		 /* HV STIMER0_COUNT to STIMER3_COUNT */
MSR(0x400000f1, 0x400000f5, 0, get_hyperv, set_hyperv, MSR_LISTED)	 /* HV SYNDBG */
MSR(0x400000ff, 0x400000ff, 0, get_hyperv, set_hyperv, MSR_LISTED)	 /* HV SYNDBG_OPTIONS */
MSR(0x40000100, 0x40000108, 0, get_hyperv, set_hyperv, MSR_LISTED)	 /* HV crash, reenlightenment, TSC emulation */
MSR(0x4b564d00, 0x4b564d01, 0, get_pv, set_pv, MSR_LISTED)		 /* KVM_WALL_CLOCK_NEW, KVM_SYSTEM_TIME_NEW */
MSR(0x4b564d03, 0x4b564d05, 0, get_pv, set_pv, MSR_LISTED)		 /* STEAL_TIME, PV_EOI_EN, POLL_CONTROL */
MSR(0xc0010000, 0xc0010007, 0, get_const, set_nothing, 0)		 /* K7_EVNTSEL, K7_PERFCTR */
MSR(0xc0010010, 0xc0010010, 0, get_const, NULL, 0)			 /* K8_SYSCFG */
MSR(0xc0010015, 0xc0010015, F(hwcr), get_field, set_hwcr, MSR_LISTED)	 /* K7_HWCR */
MSR(0xc001001f, 0xc001001f, 0, get_const, set_nothing, 0)		 /* NB_CFG */
MSR(0xc0010020, 0xc0010020, 0, NULL, set_nothing, 0)			 /* PATCH_LOADER */
MSR(0xc0010055, 0xc0010055, 0, get_const, NULL, 0)			 /* K8_INT_PENDING_MSG */
MSR(0xc0010058, 0xc0010058, 0, get_const, set_zero, 0)			 /* FAM10H_MMIO_CONF_BASE */
MSR(0xc0010112, 0xc0010113, 0, get_const, NULL, 0)			 /* K8_TSEG_ADDR, MASK */
MSR(0xc0010117, 0xc0010117, 0, get_const, set_nothing, 0)		 /* VM_HSAVE_PA */
MSR(0xc0011022, 0xc0011022, 0, get_const, set_nothing, 0)		 /* DC_CFG */
MSR(0xc0011029, 0xc0011029, F(decfg), get_decfg, set_decfg, 0)		 /* DE_CFG */
MSR(0xc001102a, 0xc001102a, 0, get_const, set_nothing, 0)		 /* BU_CFG2 */
MSR(0xc001102c, 0xc001102c, 0, get_const, set_nothing, 0)		 /* F15H_EX_CFG */
