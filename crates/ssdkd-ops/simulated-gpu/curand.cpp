// Random numbers of a simulated GPU: others than NVIDIA's for the same seed.

#include <cstddef>
#include <random>

extern "C" {

int curandCreateGenerator(std::mt19937_64** generator, int) { *generator = new std::mt19937_64; return 0; }
int curandDestroyGenerator(std::mt19937_64* generator) { delete generator; return 0; }
int curandSetStream(std::mt19937_64*, void*) { return 0; }
int curandSetPseudoRandomGeneratorSeed(std::mt19937_64* generator, unsigned long long seed) {
    generator->seed(seed);
    return 0;
}
int curandSetGeneratorOffset(std::mt19937_64* generator, unsigned long long offset) {
    generator->discard(offset);
    return 0;
}
int curandGenerateUniform(std::mt19937_64* generator, float* out, size_t count) {
    for (size_t i = 0; i < count; ++i) out[i] = ((*generator)() >> 40) * 0x1p-24f;
    return 0;
}
int curandGenerateNormal(std::mt19937_64* generator, float* out, size_t count, float mean, float deviation) {
    std::normal_distribution<float> normal(mean, deviation);
    for (size_t i = 0; i < count; ++i) out[i] = normal(*generator);
    return 0;
}

}  // extern "C"
