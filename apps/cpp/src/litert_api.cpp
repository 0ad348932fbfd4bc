#ifndef _GNU_SOURCE
#define _GNU_SOURCE  // for dlvsym
#endif
#include "litert_api.h"

#include <dlfcn.h>

#include "error.h"

namespace litert {

namespace {

constexpr const char* kVersion = "VERS_1.0";  // of the library's symbols

template <typename Function>
void find(void* library, const char* name, const std::string& path, Function& function) {
  const std::string symbol = std::string("LiteRt") + name;
  void* found = dlvsym(library, symbol.c_str(), kVersion);
  if (found == nullptr) {
    const bool other = dlsym(library, symbol.c_str()) != nullptr;
    throw Error(path + ": " + (other ? "has another version of " : "has no function ") + symbol + "; use LiteRT 2.2 or later 2.x, C API " +
                kVersion);
  }
  function = reinterpret_cast<Function>(found);
}

}  // namespace

const Api& load(const std::string& path) {
  static Api api;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw Error(std::string("--library: ") + dlerror());
#define FIND(name) find(library, #name, path, api.name)
  FIND(CreateEnvironment);
  FIND(DestroyEnvironment);
  FIND(CreateModelFromFile);
  FIND(DestroyModel);
  FIND(GetModelSignature);
  FIND(GetNumSignatureInputs);
  FIND(GetNumSignatureOutputs);
  FIND(GetSignatureInputName);
  FIND(GetSignatureOutputName);
  FIND(GetSignatureInputTensorByIndex);
  FIND(GetSignatureOutputTensorByIndex);
  FIND(GetRankedTensorType);
  FIND(CreateOptions);
  FIND(DestroyOptions);
  FIND(SetOptionsHardwareAccelerators);
  FIND(CreateOpaqueOptions);
  FIND(AddOpaqueOptions);
  FIND(CreateCompiledModel);
  FIND(DestroyCompiledModel);
  FIND(GetCompiledModelInputBufferRequirements);
  FIND(GetCompiledModelOutputBufferRequirements);
  FIND(CreateManagedTensorBufferFromRequirements);
  FIND(GetTensorBufferSize);
  FIND(LockTensorBuffer);
  FIND(UnlockTensorBuffer);
  FIND(DestroyTensorBuffer);
  FIND(RunCompiledModel);
#undef FIND
  return api;
}

}  // namespace litert
