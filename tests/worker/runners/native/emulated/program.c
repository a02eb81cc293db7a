/* Calls the C code on memory that a file holds, at the place for which its addresses were written: for CPUs that are
   emulated, where Python is not at hand. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "kernels.c"

/* Arguments: the file, its address, and the addresses of a model and tokens; or of a layer, x and y, and rows and wide. */
int main(int count, char **arguments) {
    uintptr_t given[8];
    for (int i = 2; i < count; i++) given[i] = strtoull(arguments[i], 0, 0);
    const int file = open(arguments[1], O_RDWR);
    struct stat status;
    if (file < 0 || fstat(file, &status)) return 2;
    void *at = mmap((void *)given[2], status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
    if (at == MAP_FAILED) return 3;
    if (count == 5) return textserve_forward((model *)given[3], (tokens *)given[4], 1);
    return textserve_linear((linear *)given[3], (void *)given[4], given[6], (void *)given[5], given[7], 1);
}
