// Raw uint16 counts to the networks' uint8 image in one pass: stretch, bilinear resize, planar store.
//
// The arithmetic is that of edge/images/conversion.py in integers, within one grey level of OpenCV's rounding; the numpy
// twin in tests/gpu/twin.py repeats it line by line, and edge/engines/tensorrt/kernel_args.py derives the parameters.
//
// stretch_resize   block (32, 8), grid (ceil(target_width / 128), ceil(target_height / 8)), no shared memory.
//     A thread makes four neighbouring pixels of one row in all planes. It reads 16 bytes of the column table, 4 of the
//     row table and up to 16 counts, neighbours in a warp on neighbouring addresses, so that the taps that pixels and
//     rows have in common come from L1; each count is loaded once for all planes. It writes 4 bytes per plane at once
//     where the width is a multiple of 4, else single bytes. Device memory: the source rows in use are read once, the
//     image is written once.
// stretch          block (256), grid (ceil(pixels / 2048)): the same size in and out, nothing to interpolate. A thread
//     reads 16 bytes (8 counts) and writes 8 per plane where that is aligned; the last ones go one by one.
//
// Both take one `Frame` by value and are launched once per scan. `counts` must be aligned to 16 bytes, as allocations
// are, and `columns` padded to a multiple of 4 entries. Nothing is read or written outside what `Frame` describes.

#define WEIGHT_BITS 11
#define WEIGHT_ONE (1u << WEIGHT_BITS)
#define INDEX_SHIFT 12
#define WEIGHT_MASK ((1u << INDEX_SHIFT) - 1u)

struct Stretch {
    unsigned lo, span;
    unsigned factor_low, factor_high;  // grey level = above * factor >> 32, factor < 2^41
};

struct Frame {
    const unsigned short* counts;  // (source_height, source_width)
    unsigned char* image;          // (planes, target_height, target_width)
    const unsigned* columns;       // per target column: source index << 12 | weight of the next one, of 2048
    const unsigned* rows;          // the same per target row
    int source_width, source_height, target_width, target_height, planes, unused;
    Stretch stretches[3];
};
static_assert(sizeof(Stretch) == 16 && sizeof(Frame) == 104, "edge/engines/tensorrt/kernel_args.py packs these");

__device__ __forceinline__ unsigned level(unsigned count, const Stretch& stretch) {
    const unsigned above = min(count - min(count, stretch.lo), stretch.span);
    // A 64-bit product in two 32-bit halves; above * factor_high <= 65535 * 256 at most.
    return min(above * stretch.factor_high + __umulhi(above, stretch.factor_low), 255u);
}

__device__ __forceinline__ unsigned between(unsigned first, unsigned second, unsigned weight) {
    return first * (WEIGHT_ONE - weight) + second * weight;
}

extern "C" __global__ void __launch_bounds__(256) stretch_resize(const __grid_constant__ Frame frame) {
    const int x = 4 * (blockIdx.x * 32 + threadIdx.x);
    const int y = blockIdx.y * 8 + threadIdx.y;
    if (x >= frame.target_width || y >= frame.target_height) return;

    const unsigned row = __ldg(frame.rows + y);
    const unsigned row_weight = row & WEIGHT_MASK;
    const int upper = row >> INDEX_SHIFT;
    const int lower = min(upper + 1, frame.source_height - 1);
    const unsigned short* __restrict__ above = frame.counts + static_cast<size_t>(upper) * frame.source_width;
    const unsigned short* __restrict__ below = frame.counts + static_cast<size_t>(lower) * frame.source_width;

    const uint4 packed = __ldg(reinterpret_cast<const uint4*>(frame.columns + x));
    const unsigned columns[4] = {packed.x, packed.y, packed.z, packed.w};
    unsigned taps[4][4];  // per pixel: upper left, upper right, lower left, lower right
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int left = columns[i] >> INDEX_SHIFT;
        const int right = min(left + 1, frame.source_width - 1);
        taps[i][0] = __ldg(above + left);
        taps[i][1] = __ldg(above + right);
        taps[i][2] = __ldg(below + left);
        taps[i][3] = __ldg(below + right);
    }

    const size_t plane_px = static_cast<size_t>(frame.target_height) * frame.target_width;
    unsigned char* target = frame.image + static_cast<size_t>(y) * frame.target_width + x;
    const bool whole = frame.target_width % 4 == 0 && reinterpret_cast<size_t>(target) % 4 == 0 && plane_px % 4 == 0;
#pragma unroll
    for (int plane = 0; plane < 3; ++plane) {
        if (plane >= frame.planes) break;
        const Stretch stretch = frame.stretches[plane];
        unsigned char grey[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const unsigned weight = columns[i] & WEIGHT_MASK;
            const unsigned top = between(level(taps[i][0], stretch), level(taps[i][1], stretch), weight);
            const unsigned bottom = between(level(taps[i][2], stretch), level(taps[i][3], stretch), weight);
            grey[i] = (between(top, bottom, row_weight) + (1u << (2 * WEIGHT_BITS - 1))) >> (2 * WEIGHT_BITS);
        }
        if (whole) {
            *reinterpret_cast<uchar4*>(target) = make_uchar4(grey[0], grey[1], grey[2], grey[3]);
        } else {
#pragma unroll
            for (int i = 0; i < 4; ++i)
                if (x + i < frame.target_width) target[i] = grey[i];
        }
        target += plane_px;
    }
}

extern "C" __global__ void __launch_bounds__(256) stretch(const __grid_constant__ Frame frame) {
    const size_t pixels = static_cast<size_t>(frame.target_height) * frame.target_width;
    const size_t first = 8 * (static_cast<size_t>(blockIdx.x) * 256 + threadIdx.x);
    if (first >= pixels) return;
    const int here = static_cast<int>(min(pixels - first, static_cast<size_t>(8)));

    unsigned counts[8];
    if (here == 8) {
        const uint4 packed = __ldg(reinterpret_cast<const uint4*>(frame.counts + first));
        const unsigned pairs[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
        for (int i = 0; i < 8; ++i) counts[i] = i % 2 ? pairs[i / 2] >> 16 : pairs[i / 2] & 0xFFFFu;
    } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) counts[i] = i < here ? __ldg(frame.counts + first + i) : 0u;
    }

    unsigned char* target = frame.image + first;
#pragma unroll
    for (int plane = 0; plane < 3; ++plane) {
        if (plane >= frame.planes) break;
        const Stretch stretch = frame.stretches[plane];
        unsigned packed[2] = {0u, 0u};
#pragma unroll
        for (int i = 0; i < 8; ++i) packed[i / 4] |= level(counts[i], stretch) << (8 * (i % 4));
        if (here == 8 && reinterpret_cast<size_t>(target) % 8 == 0) {
            *reinterpret_cast<uint2*>(target) = make_uint2(packed[0], packed[1]);
        } else {
#pragma unroll
            for (int i = 0; i < 8; ++i)
                if (i < here) target[i] = packed[i / 4] >> (8 * (i % 4));
        }
        target += pixels;
    }
}
