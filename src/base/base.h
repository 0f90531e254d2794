/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ground: what every room may use. */
#ifndef USERKVM_BASE_BASE_H
#define USERKVM_BASE_BASE_H

#include "base/util.h"
#include "base/log.h"
#include "base/ref.h"
#include "base/lock.h"
#include "base/srcu.h"
#include "base/loop.h"
#include "base/sig.h"
#include "base/window.h"

#endif
