// What a processor can do at most in single precision: chains of fused multiply-adds, none of which
// waits for another or for memory, on as many threads as are asked for.

#include <chrono>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <thread>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, CHAINS = 24;
#elif defined(__AVX__)
constexpr int LANES = 8, CHAINS = 12;
#else
constexpr int LANES = 4, CHAINS = 12;  // of the 16 registers of SSE; Arm has 32, and needs 8 to 16
#endif
typedef float Vector __attribute__((vector_size(LANES * 4)));

void chains(int64_t rounds, const float* factors, float* result) {
    const float factor = factors[0], constant = factors[1];
    Vector sum[CHAINS];
    for (int i = 0; i < CHAINS; ++i) sum[i] = Vector{} + factors[i % 2];
    const Vector a = Vector{} + factor, b = Vector{} + constant;
    for (int64_t round = 0; round < rounds; ++round) {
        _Pragma("GCC unroll 32") for (int i = 0; i < CHAINS; ++i) sum[i] = sum[i] * a + b;
    }
    Vector total{};
    for (int i = 0; i < CHAINS; ++i) total += sum[i];
    std::memcpy(result, &total, sizeof total);
}

// Seconds of processor time of this thread, so that other work on the machine does not count.
double processor_seconds() {
#if defined(CLOCK_THREAD_CPUTIME_ID)
    timespec now;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) == 0)
        return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
#endif
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

// Return operations per second of processor time of all threads together; `seconds` is for how long
// they are to run.
extern "C" double modeval_peak(int64_t threads, double seconds) {
    using Clock = std::chrono::steady_clock;
    constexpr int64_t ROUNDS = 1 << 14;
    const float factors[2] = {0.999f, 0.001f};
    std::vector<double> rates(threads);
    const auto work = [&](int64_t thread) {
        float result[LANES];
        const auto end = Clock::now() + std::chrono::duration<double>(seconds);
        const double start = processor_seconds();
        int64_t done = 0;
        do {
            chains(ROUNDS, factors, result);
            ++done;
        } while (Clock::now() < end);
        const double passed = processor_seconds() - start;
        volatile float kept = result[0];
        (void)kept;
        rates[thread] = static_cast<double>(done * ROUNDS * CHAINS * LANES * 2) / passed;
    };
    std::vector<std::thread> helpers;
    for (int64_t i = 1; i < threads; ++i) helpers.emplace_back(work, i);
    work(0);
    for (std::thread& helper : helpers) helper.join();
    double sum = 0;
    for (double rate : rates) sum += rate;
    return sum;
}
