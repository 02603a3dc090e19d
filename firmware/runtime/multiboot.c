/* SPDX-License-Identifier: Apache-2.0 */
#include "multiboot.h"

#include "console.h"
#include "exit.h"
#include "string.h"

#define INFO_MEMORY (1u << 0)
#define INFO_COMMAND_LINE (1u << 2)
#define INFO_MODULES (1u << 3)
#define INFO_MEMORY_MAP (1u << 6)

#define MAX_ARGUMENTS 100
#define MAX_COMMAND_LINE 4096
#define MAX_ENVIRONMENT 16384
#define MAX_RANGES 64

struct info {
    uint32_t flags, memory_lower, memory_upper, boot_device, command_line;
    uint32_t module_count, modules;
    uint32_t symbols[4];
    uint32_t map_length, map;
};

struct module {
    uint32_t start, end, command_line, reserved;
};

struct map_entry {
    uint32_t size; /* of what follows */
    uint64_t base, length;
    uint32_t type;
} __attribute__((packed));

struct entry_state entry_state;
extern char image_end[];

static uint32_t info_flags, upper_kib;
static struct memory_range ranges[MAX_RANGES];
static unsigned range_count;
static char command_line[MAX_COMMAND_LINE];
static char *arguments[MAX_ARGUMENTS + 1];
static int argument_count;
static char environment_text[MAX_ENVIRONMENT + 1];
static uint64_t heap[2]; /* start, end */

static const void *at(uint32_t address)
{
    return (const void *)(uint64_t)address;
}

static void split_arguments(const char *source)
{
    size_t length = strlen(source);
    if (length >= MAX_COMMAND_LINE)
        length = MAX_COMMAND_LINE - 1;
    memcpy(command_line, source, length);
    for (char *c = command_line; *c && argument_count < MAX_ARGUMENTS;) {
        if (*c == ' ') {
            *c++ = '\0';
            continue;
        }
        arguments[argument_count++] = c;
        while (*c && *c != ' ')
            c++;
    }
}

static void copy_map(const struct info *info)
{
    uint32_t end = info->map + info->map_length;
    for (uint32_t next = info->map; next < end && range_count < MAX_RANGES;) {
        const struct map_entry *entry = at(next);
        ranges[range_count++] = (struct memory_range){entry->base, entry->length, entry->type};
        next += entry->size + sizeof(entry->size);
    }
}

/* The heap: the RAM range that the image lies in, behind the image, without the modules. */
static void find_heap(const struct info *info)
{
    heap[0] = ((uint64_t)image_end + 4095) & ~4095ull;
    heap[1] = 0x100000 + upper_kib * 1024ull;
    for (unsigned i = 0; i < range_count; i++)
        if (ranges[i].type == MEMORY_RAM && ranges[i].base <= heap[0] && heap[0] < ranges[i].base + ranges[i].size)
            heap[1] = ranges[i].base + ranges[i].size;
    if (heap[1] > 0xfe000000)
        heap[1] = 0xfe000000;
    const struct module *modules = at(info->modules);
    for (uint32_t i = 0; i < (info->flags & INFO_MODULES ? info->module_count : 0); i++) {
        uint64_t start = modules[i].start & ~4095ull, end = (modules[i].end + 4095ull) & ~4095ull;
        if (end <= heap[0] || start >= heap[1])
            continue;
        if (start < heap[0] || start - heap[0] < heap[1] - end)
            heap[0] = end;
        else
            heap[1] = start;
    }
    heap[1] &= ~4095ull;
}

static void copy_environment(const struct info *info)
{
    if (!(info->flags & INFO_MODULES) || info->module_count != 1)
        return;
    const struct module *module = at(info->modules);
    uint32_t length = module->end - module->start;
    memcpy(environment_text, at(module->start), length < MAX_ENVIRONMENT ? length : MAX_ENVIRONMENT);
}

void multiboot_init(void)
{
    if (entry_state.eax != MULTIBOOT_BOOT_MAGIC)
        abort_run("not started by a multiboot loader: EAX is 0x%x", entry_state.eax);
    const struct info *info = at(entry_state.ebx);
    info_flags = info->flags;
    if (info->flags & INFO_MEMORY)
        upper_kib = info->memory_upper;
    if (info->flags & INFO_COMMAND_LINE)
        split_arguments(at(info->command_line));
    if (info->flags & INFO_MEMORY_MAP)
        copy_map(info);
    copy_environment(info);
    find_heap(info);
}

int multiboot_argc(void)
{
    return argument_count;
}

char **multiboot_argv(void)
{
    return arguments;
}

unsigned memory_range_count(void)
{
    return range_count;
}

const struct memory_range *memory_range(unsigned index)
{
    return &ranges[index];
}

uint32_t memory_upper_kib(void)
{
    return upper_kib;
}

uint32_t multiboot_flags(void)
{
    return info_flags;
}

uint64_t heap_start(void)
{
    return heap[0];
}

uint64_t heap_end(void)
{
    return heap[1];
}

/* Lines of NAME=value. The answer stays valid until the next call. */
const char *environment(const char *name)
{
    size_t length = strlen(name);
    for (char *line = environment_text; *line;) {
        char *end = line;
        while (*end && *end != '\n')
            end++;
        char *next = *end ? end + 1 : end;
        if (!strncmp(line, name, length) && line[length] == '=') {
            static char value[256];
            size_t size = (size_t)(end - line) - length - 1;
            if (size >= sizeof(value))
                size = sizeof(value) - 1;
            memcpy(value, line + length + 1, size);
            value[size] = '\0';
            return value;
        }
        line = next;
    }
    return NULL;
}

const char *argument(const char *name, const char *otherwise)
{
    size_t length = strlen(name);
    for (int i = 1; i < argument_count; i++)
        if (!strncmp(arguments[i], name, length) && arguments[i][length] == '=')
            return arguments[i] + length + 1;
    return otherwise;
}

uint64_t argument_number(const char *name, uint64_t otherwise)
{
    const char *text = argument(name, NULL);
    return text ? parse_number(text) : otherwise;
}

bool argument_given(const char *word)
{
    for (int i = 1; i < argument_count; i++)
        if (!strcmp(arguments[i], word))
            return true;
    return false;
}
