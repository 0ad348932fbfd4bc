#pragma once

#include <map>
#include <string>
#include <vector>

#include "export_folder.h"
#include "litert_api.h"

/// LiteRT's environment, shared by all models.
class Runtime {
 public:
  /// Throws `Error` if the library cannot be used.
  explicit Runtime(const std::string& library);
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  const litert::Api& api;
  litert::Environment environment = nullptr;
};

/// One compiled model on the CPU, with its input and output buffers.
class Model {
 public:
  /// Throws `Error` if the file cannot be loaded, or its inputs and outputs differ from `export.json`.
  Model(const Runtime& runtime, const ModelFile& file, int threads);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  void set(const std::string& input, const std::vector<float>& values) { write(input, values.data(), values.size()); }
  void set(const std::string& input, const std::vector<int32_t>& values) { write(input, values.data(), values.size()); }
  void run();
  std::vector<float> get(const std::string& output) const;
  /// The values of the only output, or of the first.
  std::vector<float> get() const { return get(file_.outputs.at(0).name); }

 private:
  void compile(int threads);
  std::map<std::string, size_t> create_buffers(const std::vector<Port>& ports, bool inputs);
  void write(const std::string& input, const void* values, size_t count);
  void release();
  void require(litert::Status status, const std::string& what) const;

  const Runtime& runtime_;
  const litert::Api& api_;
  const ModelFile file_;
  litert::Model model_ = nullptr;
  litert::CompiledModel compiled_ = nullptr;
  litert::Signature signature_ = nullptr;
  std::vector<litert::Buffer> inputs_, outputs_;
  std::map<std::string, size_t> input_index_, output_index_;
};
