/* SPDX-License-Identifier: Apache-2.0 */
#include "string.h"

/* String instructions: few instructions to emulate where ring 0 is emulated one by one. */
void *memcpy(void *to, const void *from, size_t count)
{
    void *result = to;
    size_t words = count / 8;
    asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
    count %= 8;
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    return result;
}

void *memmove(void *to, const void *from, size_t count)
{
    char *target = to;
    const char *source = from;
    if (target <= source || target >= source + count)
        return memcpy(to, from, count);
    while (count--)
        target[count] = source[count];
    return to;
}

void *memset(void *to, int value, size_t count)
{
    void *result = to;
    uint64_t pattern = (uint8_t)value * 0x0101010101010101ull;
    size_t words = count / 8;
    asm volatile("rep stosq" : "+D"(to), "+c"(words) : "a"(pattern) : "memory");
    count %= 8;
    asm volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(pattern) : "memory");
    return result;
}

int memcmp(const void *left, const void *right, size_t count)
{
    const uint8_t *l = left, *r = right;
    for (; count; count--, l++, r++)
        if (*l != *r)
            return *l - *r;
    return 0;
}

size_t strlen(const char *text)
{
    size_t length = 0;
    while (text[length])
        length++;
    return length;
}

int strcmp(const char *left, const char *right)
{
    while (*left && *left == *right)
        left++, right++;
    return (uint8_t)*left - (uint8_t)*right;
}

int strncmp(const char *left, const char *right, size_t count)
{
    for (; count; count--, left++, right++)
        if (!*left || *left != *right)
            return (uint8_t)*left - (uint8_t)*right;
    return 0;
}

uint64_t parse_number(const char *text)
{
    unsigned base = 10;
    uint64_t value = 0;
    if (text[0] == '0') {
        base = 8;
        if (text[1] == 'x' || text[1] == 'X') {
            base = 16;
            text += 2;
        }
    }
    for (;; text++) {
        unsigned digit = *text - '0';
        if (digit > 9)
            digit = (*text | 0x20) - 'a' + 10u;
        if (digit >= base || *text < '0')
            return value;
        value = value * base + digit;
    }
}
