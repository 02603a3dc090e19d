/* SPDX-License-Identifier: Apache-2.0 */
/* Pages whose rights are tried, and the accesses that try them. */
#include "parts.h"

#define DATA_OFFSET 0x234

uint8_t *pages;
uint64_t scratch[64];

/* mov $CODE_RESULT, %eax; mov %rax, (%rsi); ret */
static const uint8_t code[] = {0xb8, 0x77, 0x07, 0, 0, 0x48, 0x89, 0x06, 0xc3};

void *data_of(unsigned page)
{
    return pages + page * PAGE_SIZE + DATA_OFFSET;
}

uint16_t set_rights(unsigned page, uint32_t rights)
{
    return protect((uint64_t)pages + page * PAGE_SIZE, 1, rights);
}

void place(unsigned page)
{
    memcpy(pages + page * PAGE_SIZE + CODE_OFFSET, code, sizeof code);
    *(uint64_t *)data_of(page) = DATA;
}

void fill(unsigned page)
{
    set_rights(page, RIGHTS_ALL);
    place(page);
    memset(scratch, 0, sizeof scratch);
}

ACCESS(access_read, "movq (%rdi), %rax\n\tmovq %rax, (%rsi)");
ACCESS(access_write, "movl $0x5a5a5a5a, %eax\n\tmovq %rax, (%rdi)");
ACCESS(access_execute, "call *%rdi");

const struct access accesses[] = {
    {"read", access_read, RIGHT_READ, ACCESS_READ},
    {"write", access_write, RIGHT_WRITE, ACCESS_WRITE},
    {"execute", access_execute, RIGHT_EXECUTE, ACCESS_EXECUTE},
};

void *target_of(unsigned access, unsigned page)
{
    return accesses[access].access == ACCESS_EXECUTE ? pages + page * PAGE_SIZE + CODE_OFFSET : data_of(page);
}

uint64_t look(void *argument)
{
    return *(volatile uint64_t *)argument;
}

bool happened(unsigned access, unsigned page)
{
    switch (accesses[access].access) {
    case ACCESS_READ:
        return scratch[0] == DATA;
    case ACCESS_WRITE:
        return vsm_run(look, data_of(page)) == WRITTEN;
    default:
        return scratch[0] == CODE_RESULT;
    }
}

bool intercepted(unsigned page)
{
    warden_clear(POLICY_SKIP);
    attempt(access_read, data_of(page), scratch);
    return warden()->count == 1;
}
