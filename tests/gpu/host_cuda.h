// Enough of CUDA's language for a C++ compiler to run kernels.cu on the CPU, one thread after the other.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __device__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(threads)
#define __restrict__

struct Index { int x, y, z; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(4) uchar4 { unsigned char x, y, z, w; };
static Index blockIdx, threadIdx;

using std::min;
static inline int min(int a, unsigned b) { return min(a, static_cast<int>(b)); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<uint64_t>(a) * b >> 32; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uchar4 make_uchar4(unsigned char x, unsigned char y, unsigned char z, unsigned char w) { return {x, y, z, w}; }
template <typename T> static inline T __ldg(const T* address) { return *address; }

#include "kernels.cu"

extern "C" void launch(int resize, const int* grid, const int* block, const void* argument) {
    Frame frame;
    std::memcpy(&frame, argument, sizeof frame);
    for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < grid[0]; ++blockIdx.x)
            for (threadIdx.y = 0; threadIdx.y < block[1]; ++threadIdx.y)
                for (threadIdx.x = 0; threadIdx.x < block[0]; ++threadIdx.x)
                    if (resize) stretch_resize(frame); else stretch(frame);
}
