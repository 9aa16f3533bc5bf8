// The run-time compiler of a simulated GPU: kernels.sh, which asks the compiler of C++. An image is the path of a library.

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

struct Program {
    std::string source, log, image;
};

extern "C" {

int nvrtcVersion(int* major, int* minor) { *major = 0; *minor = 0; return 0; }

int nvrtcCreateProgram(Program** program, const char* source, const char*, int, const char* const*, const char* const*) {
    *program = new Program{source, {}, {}};
    return 0;
}
int nvrtcDestroyProgram(Program** program) { delete *program; *program = nullptr; return 0; }

int nvrtcCompileProgram(Program* program, int, const char* const*) {
    // Each program a library of its own: what is open under one path is not opened again.
    char at_path[] = FOLDER "/kernels-XXXXXX";
    if (!mkdtemp(at_path)) return 1;
    std::string at = at_path, library = at + "/kernels.so";
    std::ofstream(at + "/kernels.cu") << program->source;
    std::string command = std::string(KERNELS_SH) + " " + at + "/kernels.cu " + library + " 2>&1";
    FILE* output = popen(command.c_str(), "r");
    if (!output) return 1;
    for (int byte; (byte = std::fgetc(output)) != EOF;) program->log += static_cast<char>(byte);
    program->image = "simulated:" + library;
    return pclose(output) == 0 ? 0 : 6;  // compilation failed
}

int nvrtcGetProgramLogSize(Program* program, size_t* size) { *size = program->log.size() + 1; return 0; }
int nvrtcGetProgramLog(Program* program, char* log) { std::strcpy(log, program->log.c_str()); return 0; }
int nvrtcGetCUBINSize(Program* program, size_t* size) { *size = program->image.size() + 1; return 0; }
int nvrtcGetCUBIN(Program* program, char* image) { std::strcpy(image, program->image.c_str()); return 0; }

}  // extern "C"
