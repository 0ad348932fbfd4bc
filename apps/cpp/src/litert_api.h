#pragma once

// The part of LiteRT's C API that this program uses. LiteRT's Linux and Android packages have the library and not always
// its headers, so the functions are declared here and looked up when the program starts.

#include <cstddef>
#include <cstdint>
#include <string>

namespace litert {

using Status = int;  // 0 is success
struct EnvironmentT;
struct ModelT;
struct SignatureT;
struct TensorT;
struct OptionsT;
struct OpaqueOptionsT;
struct CompiledModelT;
struct BufferT;
struct RequirementsT;
using Environment = EnvironmentT*;
using Model = ModelT*;
using Signature = SignatureT*;
using Tensor = TensorT*;
using Options = OptionsT*;
using OpaqueOptions = OpaqueOptionsT*;
using CompiledModel = CompiledModelT*;
using Buffer = BufferT*;
using Requirements = RequirementsT*;

struct EnvironmentOption {
  int tag;
  struct {
    int type;
    union {
      int64_t int_value;
      const char* str_value;
    };
  } value;
};
static_assert(sizeof(void*) != 8 || sizeof(EnvironmentOption) == 24, "layout of LiteRtEnvOption");
constexpr int kMinLoggerSeverity = 25, kAnyInt = 2, kSeverityError = 4;

struct TensorType {
  int element_type;
  struct {
    unsigned int rank : 7;
    unsigned int has_strides : 1;
    int32_t dimensions[8];
    uint32_t strides[8];
  } layout;
};
static_assert(sizeof(TensorType) == 72, "layout of LiteRtRankedTensorType");
constexpr int kFloat32 = 1, kInt32 = 2;

constexpr int kCpu = 1;  // of LiteRtHwAccelerators
constexpr int kRead = 0, kWrite = 1;  // of LiteRtTensorBufferLockMode

/// Functions of `libLiteRt.so` under their names without the prefix `LiteRt`.
struct Api {
  Status (*CreateEnvironment)(int, const EnvironmentOption*, Environment*);
  void (*DestroyEnvironment)(Environment);
  Status (*CreateModelFromFile)(Environment, const char* path, Model*);
  void (*DestroyModel)(Model);
  Status (*GetModelSignature)(Model, size_t index, Signature*);
  Status (*GetNumSignatureInputs)(Signature, size_t*);
  Status (*GetNumSignatureOutputs)(Signature, size_t*);
  Status (*GetSignatureInputName)(Signature, size_t index, const char**);
  Status (*GetSignatureOutputName)(Signature, size_t index, const char**);
  Status (*GetSignatureInputTensorByIndex)(Signature, size_t index, Tensor*);
  Status (*GetSignatureOutputTensorByIndex)(Signature, size_t index, Tensor*);
  Status (*GetRankedTensorType)(Tensor, TensorType*);
  Status (*CreateOptions)(Options*);
  void (*DestroyOptions)(Options);
  Status (*SetOptionsHardwareAccelerators)(Options, int);
  Status (*CreateOpaqueOptions)(const char* identifier, void* data, void (*destroy)(void*), OpaqueOptions*);
  Status (*AddOpaqueOptions)(Options, OpaqueOptions);
  Status (*CreateCompiledModel)(Environment, Model, Options, CompiledModel*);
  void (*DestroyCompiledModel)(CompiledModel);
  Status (*GetCompiledModelInputBufferRequirements)(CompiledModel, size_t signature, size_t index, Requirements*);
  Status (*GetCompiledModelOutputBufferRequirements)(CompiledModel, size_t signature, size_t index, Requirements*);
  Status (*CreateManagedTensorBufferFromRequirements)(Environment, const TensorType*, Requirements, Buffer*);
  Status (*GetTensorBufferSize)(Buffer, size_t*);
  Status (*LockTensorBuffer)(Buffer, void**, int mode);
  Status (*UnlockTensorBuffer)(Buffer);
  void (*DestroyTensorBuffer)(Buffer);
  Status (*RunCompiledModel)(CompiledModel, size_t signature, size_t inputs, Buffer*, size_t outputs, Buffer*);
};

/// Load the library. Throws `Error` if it cannot be loaded, or lacks a function at the version of the C API that is
/// declared here.
const Api& load(const std::string& library);

}  // namespace litert
