/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Devices that a VMM passes through (systems.md B): groups on a type1 container, device cdevs on an iommufd,
 * drivers as plug-ins. A VM is known here as a struct kvm_file only; whoever assembles the library gives the
 * functions below to api (api_vfio_ops), and this room's open to the shim.
 */
#ifndef USERKVM_VFIO_VFIO_H
#define USERKVM_VFIO_VFIO_H

#include "base/kvm_file.h"
#include "file/file.h"

/* Reads USERKVM_VFIO: "" = nothing exists; "test" = the built-in test devices; "/path/driver.so" = a plug-in;
 * several separated by colons. Loads nothing yet. Called once by the assembler. */
void vfio_init(void);
/* True if USERKVM_VFIO named a device. */
bool vfio_exists(void);
/* True if the absolute, normalised path names something of ours: /dev/vfio/vfio, /dev/vfio/GROUP,
 * /dev/vfio/devices/vfioN, /dev/iommu. */
bool vfio_is_path(const char *path);
/* What stat(2) says of such a path. */
dev_t vfio_device_number(const char *path);
/* open(2) of such a path: a new fd, or -errno. */
int vfio_open(const char *path, int flags);

/* -- For KVM_DEV_TYPE_VFIO -- */

/* True if the file is a VFIO group or a device opened through its cdev. */
bool vfio_file_is_valid(struct file *f);
/* Links the VM to the group or device (NULL: cuts the link). Stops or allows *new* opens only: a device that is
 * open keeps what it took. Takes the leaf kvm_ref_lock. */
void vfio_file_set_kvm(struct file *f, struct kvm_file *kvm);
/* True if every DMA of the group or device snoops the caches. */
bool vfio_file_is_coherent(struct file *f);

#endif
