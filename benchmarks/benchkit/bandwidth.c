/* SPDX-License-Identifier: MIT */
/* Memory bandwidth as a model meets it: reading a large array once (read), and McCalpin's triad a = b + s * c.
 * usage: bandwidth MIB REPEATS; prints per repeat "read GBPS" and "triad GBPS" (1 GB = 1e9 bytes). Threads: OMP_NUM_THREADS.
 */
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: bandwidth MIB REPEATS\n");
        return 2;
    }
    const size_t n = (size_t)atol(argv[1]) * 1024 * 1024 / sizeof(double);
    const int repeats = atoi(argv[2]);
    double *a = malloc(n * sizeof *a), *b = malloc(n * sizeof *b), *c = malloc(n * sizeof *c);
    if (!a || !b || !c) {
        fprintf(stderr, "not enough memory for three arrays of %s MiB\n", argv[1]);
        return 1;
    }
/* Each thread touches the part that it will use, so that the pages lie near it. */
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) {
        a[i] = 0.0;
        b[i] = (double)i;
        c[i] = 1.0;
    }
    volatile double sink = 0.0;
    for (int r = 0; r <= repeats; r++) {
        double sum = 0.0, begin = omp_get_wtime();
#pragma omp parallel for simd schedule(static) reduction(+ : sum)
        for (size_t i = 0; i < n; i++) sum += b[i];
        double read = omp_get_wtime() - begin;
        sink += sum;
        begin = omp_get_wtime();
#pragma omp parallel for simd schedule(static)
        for (size_t i = 0; i < n; i++) a[i] = b[i] + 3.0 * c[i];
        double triad = omp_get_wtime() - begin;
        sink += a[n / 2];
        /* The first round warms up. */
        if (r > 0)
            printf("read %.3f\ntriad %.3f\n", n * sizeof(double) / read / 1e9, 3.0 * n * sizeof(double) / triad / 1e9);
    }
    return sink == 1.0;
}
