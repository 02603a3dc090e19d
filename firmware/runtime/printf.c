/* SPDX-License-Identifier: Apache-2.0 */
#include "console.h"
#include "cpu.h"
#include "lock.h"
#include "string.h"

#define LINE_SIZE 1000

struct output {
    char *buffer;
    size_t size;
    size_t length; /* as if the buffer had no end */
};

struct field {
    bool left, zero, plus;
    int width;
};

static void put(struct output *out, char character)
{
    if (out->length + 1 < out->size)
        out->buffer[out->length] = character;
    out->length++;
}

static void put_field(struct output *out, const struct field *field, const char *prefix, const char *text,
                      int length)
{
    int padding = field->width - length - (int)strlen(prefix);
    if (!field->left && !field->zero)
        for (; padding > 0; padding--)
            put(out, ' ');
    while (*prefix)
        put(out, *prefix++);
    if (!field->left)
        for (; padding > 0; padding--)
            put(out, '0');
    for (int i = 0; i < length; i++)
        put(out, text[i]);
    for (; padding > 0; padding--)
        put(out, ' ');
}

static void put_number(struct output *out, const struct field *field, const char *prefix, uint64_t value,
                       unsigned base, const char *digits)
{
    char text[24];
    int start = sizeof(text);
    do {
        text[--start] = digits[value % base];
        value /= base;
    } while (value);
    put_field(out, field, prefix, text + start, sizeof(text) - start);
}

int vsnprintf(char *buffer, size_t size, const char *format, va_list arguments)
{
    static const char lower[] = "0123456789abcdef", upper[] = "0123456789ABCDEF";
    struct output out = {buffer, size, 0};

    for (; *format; format++) {
        if (*format != '%') {
            put(&out, *format);
            continue;
        }
        struct field field = {0};
        bool is_long = false;
        int precision = -1;
        for (format++; *format == '-' || *format == '0' || *format == '+'; format++) {
            field.left |= *format == '-';
            field.zero |= *format == '0';
            field.plus |= *format == '+';
        }
        if (*format == '*') {
            field.width = va_arg(arguments, int);
            format++;
        }
        for (; *format >= '0' && *format <= '9'; format++)
            field.width = field.width * 10 + *format - '0';
        if (*format == '.') {
            precision = 0;
            if (*++format == '*') {
                precision = va_arg(arguments, int);
                format++;
            }
            for (; *format >= '0' && *format <= '9'; format++)
                precision = precision * 10 + *format - '0';
        }
        for (; *format == 'l' || *format == 'z' || *format == 'h'; format++)
            is_long |= *format != 'h';

        switch (*format) {
        case 'd':
        case 'i': {
            int64_t value = is_long ? va_arg(arguments, long) : va_arg(arguments, int);
            uint64_t magnitude = value < 0 ? -(uint64_t)value : (uint64_t)value;
            put_number(&out, &field, value < 0 ? "-" : field.plus ? "+" : "", magnitude, 10, lower);
            break;
        }
        case 'u':
            put_number(&out, &field, "", is_long ? va_arg(arguments, uint64_t) : va_arg(arguments, unsigned),
                       10, lower);
            break;
        case 'x':
        case 'X':
            put_number(&out, &field, "", is_long ? va_arg(arguments, uint64_t) : va_arg(arguments, unsigned),
                       16, *format == 'x' ? lower : upper);
            break;
        case 'p':
            put_number(&out, &field, "0x", (uint64_t)va_arg(arguments, void *), 16, lower);
            break;
        case 'c': {
            char character = (char)va_arg(arguments, int);
            put_field(&out, &field, "", &character, 1);
            break;
        }
        case 's': {
            const char *text = va_arg(arguments, const char *);
            int length = 0;
            while ((precision < 0 || length < precision) && text[length])
                length++;
            field.zero = false;
            put_field(&out, &field, "", text, length);
            break;
        }
        case '\0':
            format--;
            break;
        default:
            put(&out, *format);
        }
    }
    if (size)
        buffer[out.length < size ? out.length : size - 1] = '\0';
    return (int)out.length;
}

int snprintf(char *buffer, size_t size, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(buffer, size, format, arguments);
    va_end(arguments);
    return length;
}

int vprintf(const char *format, va_list arguments)
{
    static struct lock lock;
    static struct cpu *owner;
    char line[LINE_SIZE + 1];
    int length = vsnprintf(line, sizeof(line), format, arguments);

    /* An exception inside the lock prints too, and VTL1 in the midst of VTL0: a processor must not wait for itself. */
    struct cpu *holder = load_acquire(&owner);
    bool nested = holder && holder->index == this_cpu()->index;
    if (!nested) {
        lock_acquire(&lock);
        store_release(&owner, this_cpu());
    }
    console_write(line, length < LINE_SIZE ? length : LINE_SIZE);
    if (!nested) {
        store_release(&owner, (struct cpu *)0);
        lock_release(&lock);
    }
    return length;
}

int printf(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vprintf(format, arguments);
    va_end(arguments);
    return length;
}
