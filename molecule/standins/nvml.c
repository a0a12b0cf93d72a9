/* SPDX-License-Identifier: MIT
 *
 * The stand-in for NVIDIA's management library (libnvidia-ml.so.1), for a machine without a card.
 *
 * Who holds memory of the card is read from the processes themselves, as the real driver does: a process that has an open
 * memory file named "stand-in-card=<MiB>" (memfd_create) holds so much, under its own number as the asking process sees it,
 * until it closes the file or ends. See card.py. STANDIN_CARD_NAME gives the file another name, for a second card.
 *
 * All else comes from a text file, read anew at every call, so that a test can change the card under a running program:
 * STANDIN_CARD, or /run/stand-in-card. One name=value a line:
 *
 *   total_mib, reserved_mib   the card, and the driver's own share
 *   used_mib                  memory that is taken and that no process holds (what the driver has not given back)
 *   process=PID:MIB           a process that the driver still names, whether it lives or not; any number of lines
 *   load, power_mw, limit_mw, temperature, reasons (the bits of nvmlClocksEventReasons)
 *   name, uuid, driver, capability (12.0)
 *   fail                      a code that every question is answered with (15: the card is lost); init_fail: nvmlInit
 *
 * Names, numbers and layouts are those of NVIDIA's public API reference (nvml.h of CUDA 12 and 13).
 */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define MIB(x) ((unsigned long long)(x) << 20)
#define MOST_PROCESSES 256

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NO_PERMISSION = 4,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    GPU_IS_LOST = 15,
    VERSION_MISMATCH = 25,
    UNKNOWN = 999,
};

typedef int nvmlReturn_t;
typedef void *nvmlDevice_t;

typedef struct {
    unsigned int pid;
    unsigned long long used;
    unsigned int gpu_instance;
    unsigned int compute_instance;
} process_info;

typedef struct {
    unsigned long long total, reserved, used, reasons;
    unsigned int load, power, limit, temperature;
    int fail, init_fail, major, minor;
    char name[96], uuid[96], driver[80];
    unsigned int processes;
    process_info process[MOST_PROCESSES];
} card;

static int opened;

/* What the link of such a file begins with. */
static const char *hold(void)
{
    static char words[96];
    const char *name = getenv("STANDIN_CARD_NAME");
    snprintf(words, sizeof words, "/memfd:%s=", name != NULL ? name : "stand-in-card");
    return words;
}

static void add(card *c, unsigned int pid, unsigned long long mib)
{
    for (unsigned int i = 0; i < c->processes; i++) {
        if (c->process[i].pid == pid) {
            c->process[i].used += MIB(mib);
            return;
        }
    }
    if (c->processes < MOST_PROCESSES) {
        process_info *next = &c->process[c->processes++];
        next->pid = pid;
        next->used = MIB(mib);
        next->gpu_instance = next->compute_instance = 0xffffffffu;
    }
}

/* What one process says that it holds: the sum over its open files of that name. */
static void look_at(card *c, const char *number, const char *prefix)
{
    char folder[280];
    snprintf(folder, sizeof folder, "/proc/%s/fd", number);
    DIR *files = opendir(folder);
    if (files == NULL)
        return; /* it is gone, or not ours to look at */
    const struct dirent *entry;
    while ((entry = readdir(files)) != NULL) {
        char target[160];
        ssize_t length = readlinkat(dirfd(files), entry->d_name, target, sizeof target - 1);
        if (length <= 0)
            continue;
        target[length] = '\0';
        if (strncmp(target, prefix, strlen(prefix)) == 0)
            add(c, (unsigned int)strtoul(number, NULL, 10), strtoull(target + strlen(prefix), NULL, 10));
    }
    closedir(files);
}

static void look_at_processes(card *c)
{
    const char *prefix = hold();
    DIR *proc = opendir("/proc");
    if (proc == NULL)
        return;
    const struct dirent *entry;
    while ((entry = readdir(proc)) != NULL) {
        if (isdigit((unsigned char)entry->d_name[0]))
            look_at(c, entry->d_name, prefix);
    }
    closedir(proc);
}

static void set(card *c, const char *key, const char *value)
{
    const unsigned long long number = strtoull(value, NULL, 0);
    if (strcmp(key, "total_mib") == 0)
        c->total = number;
    else if (strcmp(key, "reserved_mib") == 0)
        c->reserved = number;
    else if (strcmp(key, "used_mib") == 0)
        c->used = number;
    else if (strcmp(key, "reasons") == 0)
        c->reasons = number;
    else if (strcmp(key, "load") == 0)
        c->load = (unsigned int)number;
    else if (strcmp(key, "power_mw") == 0)
        c->power = (unsigned int)number;
    else if (strcmp(key, "limit_mw") == 0)
        c->limit = (unsigned int)number;
    else if (strcmp(key, "temperature") == 0)
        c->temperature = (unsigned int)number;
    else if (strcmp(key, "fail") == 0)
        c->fail = (int)number;
    else if (strcmp(key, "init_fail") == 0)
        c->init_fail = (int)number;
    else if (strcmp(key, "name") == 0)
        snprintf(c->name, sizeof c->name, "%s", value);
    else if (strcmp(key, "uuid") == 0)
        snprintf(c->uuid, sizeof c->uuid, "%s", value);
    else if (strcmp(key, "driver") == 0)
        snprintf(c->driver, sizeof c->driver, "%s", value);
    else if (strcmp(key, "capability") == 0) {
        char *end;
        c->major = (int)strtol(value, &end, 10);
        c->minor = *end == '.' ? (int)strtol(end + 1, NULL, 10) : 0;
    } else if (strcmp(key, "process") == 0) {
        char *end;
        const unsigned long pid = strtoul(value, &end, 10);
        if (*end == ':')
            add(c, (unsigned int)pid, strtoull(end + 1, NULL, 10));
    }
}

static void read_card(card *c)
{
    memset(c, 0, sizeof *c);
    c->total = 32607;
    c->reserved = 480;
    c->limit = 575000;
    c->power = 30000;
    c->temperature = 35;
    c->reasons = 1; /* idle */
    c->major = 12;
    set(c, "name", "NVIDIA GeForce RTX 5090 (stand-in)");
    set(c, "uuid", "GPU-57a9d111-0000-4000-8000-000000000000");
    set(c, "driver", "580.95.05");
    const char *path = getenv("STANDIN_CARD");
    FILE *file = fopen(path != NULL ? path : "/run/stand-in-card", "r");
    if (file == NULL)
        return;
    char line[256];
    while (fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\r\n")] = '\0';
        char *value = strchr(line, '=');
        if (value == NULL || line[0] == '#')
            continue;
        *value++ = '\0';
        set(c, line, value);
    }
    fclose(file);
}

/* Begin of every question: the library is open, and the card answers. */
#define QUESTION(c)                                                                                                    \
    card c;                                                                                                            \
    if (opened == 0)                                                                                                   \
        return UNINITIALIZED;                                                                                          \
    read_card(&(c));                                                                                                   \
    if ((c).fail != 0)                                                                                                 \
        return (c).fail

/* The same about the one card that there is. */
#define ABOUT(c, device)                                                                                               \
    QUESTION(c);                                                                                                       \
    if ((device) != (nvmlDevice_t)&opened)                                                                             \
        return INVALID_ARGUMENT

static nvmlReturn_t text(char *to, unsigned int length, const char *from)
{
    if (to == NULL)
        return INVALID_ARGUMENT;
    if (length <= strlen(from))
        return INSUFFICIENT_SIZE;
    memcpy(to, from, strlen(from) + 1);
    return SUCCESS;
}

/* ---- the library */
EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    (void)flags;
    card c;
    read_card(&c);
    if (c.init_fail != 0)
        return c.init_fail;
    opened++;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}

EXPORT nvmlReturn_t nvmlShutdown(void)
{
    if (opened == 0)
        return UNINITIALIZED;
    opened--;
    return SUCCESS;
}

EXPORT const char *nvmlErrorString(nvmlReturn_t code)
{
    switch (code) {
    case SUCCESS:
        return "Success";
    case UNINITIALIZED:
        return "Uninitialized";
    case INVALID_ARGUMENT:
        return "Invalid Argument";
    case NOT_SUPPORTED:
        return "Not Supported";
    case NO_PERMISSION:
        return "Insufficient Permissions";
    case NOT_FOUND:
        return "Not Found";
    case INSUFFICIENT_SIZE:
        return "Insufficient Size";
    case DRIVER_NOT_LOADED:
        return "Driver Not Loaded";
    case GPU_IS_LOST:
        return "GPU is lost";
    case VERSION_MISMATCH:
        return "Argument version mismatch";
    default:
        return "Unknown Error";
    }
}

EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    QUESTION(c);
    return text(version, length, c.driver);
}

EXPORT nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
    QUESTION(c);
    char words[96];
    snprintf(words, sizeof words, "13.%s", c.driver);
    return text(version, length, words);
}

EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    QUESTION(c);
    *version = 13000;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    QUESTION(c);
    *count = 1;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    QUESTION(c);
    if (index != 0 || device == NULL)
        return INVALID_ARGUMENT;
    *device = &opened;
    return SUCCESS;
}

/* ---- the card */
EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
    ABOUT(c, device);
    *index = 0;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length)
{
    ABOUT(c, device);
    return text(name, length, c.name);
}

EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)
{
    ABOUT(c, device);
    return text(uuid, length, c.uuid);
}

EXPORT nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    ABOUT(c, device);
    *major = c.major;
    *minor = c.minor;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, int *mode)
{
    ABOUT(c, device);
    *mode = 1;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetDisplayActive(nvmlDevice_t device, int *active)
{
    ABOUT(c, device);
    *active = 0;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, unsigned int *rates)
{
    ABOUT(c, device);
    rates[0] = c.load;
    rates[1] = 0;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *power)
{
    ABOUT(c, device);
    *power = c.power;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t device, unsigned int *limit)
{
    ABOUT(c, device);
    *limit = c.limit;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned int *limit)
{
    ABOUT(c, device);
    *limit = c.limit;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned int *least,
                                                                 unsigned int *most)
{
    ABOUT(c, device);
    *least = 400000;
    *most = 600000;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned int sensor, unsigned int *temperature)
{
    ABOUT(c, device);
    if (sensor != 0)
        return INVALID_ARGUMENT;
    *temperature = c.temperature;
    return SUCCESS;
}

typedef struct {
    unsigned int version;
    unsigned int sensor;
    int temperature;
} temperature_v1;

EXPORT nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, temperature_v1 *temperature)
{
    ABOUT(c, device);
    temperature->temperature = (int)c.temperature;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device, unsigned long long *reasons)
{
    ABOUT(c, device);
    *reasons = c.reasons;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *reasons)
{
    return nvmlDeviceGetCurrentClocksEventReasons(device, reasons);
}

/* ---- memory, and who holds it */
static unsigned long long taken(const card *c)
{
    unsigned long long sum = MIB(c->used);
    for (unsigned int i = 0; i < c->processes; i++)
        sum += c->process[i].used;
    const unsigned long long most = MIB(c->total - c->reserved);
    return sum < most ? sum : most;
}

typedef struct {
    unsigned long long total, free, used;
} memory_v1;

/* The first version counts the driver's own share as used. */
EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, memory_v1 *memory)
{
    ABOUT(c, device);
    look_at_processes(&c);
    memory->total = MIB(c.total);
    memory->used = taken(&c) + MIB(c.reserved);
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

typedef struct {
    unsigned int version;
    unsigned long long total, reserved, free, used;
} memory_v2;

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, memory_v2 *memory)
{
    ABOUT(c, device);
    if (memory->version != (sizeof(memory_v2) | 2u << 24))
        return VERSION_MISMATCH;
    look_at_processes(&c);
    memory->total = MIB(c.total);
    memory->reserved = MIB(c.reserved);
    memory->used = taken(&c);
    memory->free = memory->total - memory->reserved - memory->used;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
                                                            process_info *found)
{
    ABOUT(c, device);
    look_at_processes(&c);
    const unsigned int room = *count;
    *count = c.processes;
    if (c.processes == 0)
        return SUCCESS;
    if (found == NULL || room < c.processes)
        return INSUFFICIENT_SIZE;
    memcpy(found, c.process, c.processes * sizeof *found);
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
                                                             process_info *found)
{
    ABOUT(c, device);
    (void)found;
    *count = 0;
    return SUCCESS;
}
