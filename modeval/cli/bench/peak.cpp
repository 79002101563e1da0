// What a processor can do at most in single precision: chains of fused multiply-adds, none of which
// waits for another or for memory, on as many threads as are asked for.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <thread>
#include <vector>

namespace {

template <int LANES>
struct Chains {
    typedef float Vector __attribute__((vector_size(LANES * 4)));
    static constexpr int COUNT = 12;  // with two constants no more than the 16 registers of AVX2
    static constexpr int64_t OPERATIONS = 2 * LANES * COUNT;  // of a round

    // Each chain starts elsewhere, and where depends on the last result: nothing can be left out.
    static float run(int64_t rounds, float start, float factor, float constant) {
        Vector sum[COUNT];
        for (int i = 0; i < COUNT; ++i) sum[i] = Vector{} + (start + static_cast<float>(i));
        const Vector a = Vector{} + factor, b = Vector{} + constant;
        for (int64_t round = 0; round < rounds; ++round) {
            _Pragma("GCC unroll 12") for (int i = 0; i < COUNT; ++i) sum[i] = sum[i] * a + b;
        }
        Vector total{};
        for (int i = 0; i < COUNT; ++i) total += sum[i];
        float lanes[LANES], all = 0;
        std::memcpy(lanes, &total, sizeof total);
        for (float lane : lanes) all += lane;
        return all;
    }
};

// Seconds of processor time of this thread, so that other work on the machine does not count.
double processor_seconds() {
#if defined(CLOCK_THREAD_CPUTIME_ID)
    timespec now;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) == 0)
        return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
#endif
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <int LANES>
double rate_of(int64_t threads, double seconds) {
    using Clock = std::chrono::steady_clock;
    constexpr int64_t ROUNDS = 1 << 14;
    volatile float factor = 0.999f, constant = 0.001f;
    std::vector<double> rates(threads);
    const auto work = [&](int64_t thread) {
        volatile float result = 1;
        const auto end = Clock::now() + std::chrono::duration<double>(seconds);
        const double start = processor_seconds();
        int64_t done = 0;
        do {
            result = Chains<LANES>::run(ROUNDS, result, factor, constant);
            ++done;
        } while (Clock::now() < end);
        const double passed = processor_seconds() - start;
        rates[thread] = static_cast<double>(done * ROUNDS * Chains<LANES>::OPERATIONS) / passed;
    };
    std::vector<std::thread> helpers;
    for (int64_t i = 1; i < threads; ++i) helpers.emplace_back(work, i);
    work(0);
    for (std::thread& helper : helpers) helper.join();
    double sum = 0;
    for (double rate : rates) sum += rate;
    return sum;
}

}  // namespace

// Return operations per second of processor time of all threads together, with vectors of the width
// that does most (the widest is not the fastest everywhere); `seconds` is for how long to try.
extern "C" double modeval_peak(int64_t threads, double seconds) {
#if defined(__AVX512F__)
    return std::max(rate_of<16>(threads, seconds / 2), rate_of<8>(threads, seconds / 2));
#elif defined(__AVX__)
    return rate_of<8>(threads, seconds);
#else
    return rate_of<4>(threads, seconds);
#endif
}
