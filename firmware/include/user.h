/* SPDX-License-Identifier: Apache-2.0 */
/* Code in ring 3. */
#pragma once

#include <stdint.h>

/* Lets ring 3 use the first GiB, as far as the pages in it do. On the running processor. */
void user_mode_allow(void);

struct user_call {
    uint64_t rax, rcx, rdx; /* at the call, then at the exception */
    uint64_t cs, vector;    /* where the exception was raised, and which one */
};

/* Calls `entry` from ring 3 with IOPL 3, so that nothing but the VMM stands between it and ports. #UD or #GP has to end it;
 * a KVM that runs ring 3 on the host's own takes IOPL away, so that an OUT is #GP. Their handlers are none afterwards.
 */
void user_mode_call(const void *entry, struct user_call *call);
