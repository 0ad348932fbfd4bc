#include "model.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "error.h"

Runtime::Runtime(const std::string& library) : api(litert::load(library)) {
  litert::EnvironmentOption quiet{};
  quiet.tag = litert::kMinLoggerSeverity;
  quiet.value.type = litert::kAnyInt;
  quiet.value.int_value = litert::kSeverityError;
  if (api.CreateEnvironment(1, &quiet, &environment) != 0) throw Error(library + ": cannot start LiteRT");
}

Runtime::~Runtime() { api.DestroyEnvironment(environment); }

Model::Model(const Runtime& runtime, const ModelFile& file, int threads)
    : runtime_(runtime), api_(runtime.api), file_(file) {
  try {
    std::ifstream content(file_.path, std::ios::binary | std::ios::ate);
    if (!content) throw Error(file_.path + ": cannot be read; export the folder again");
    // LiteRT does not check a model that was copied in part.
    if (std::llround(file_.size_mb * 1e6) != static_cast<long long>(content.tellg()))
      throw Error(file_.path + ": has another size than export.json says; copy or export the folder again");
    const litert::Status status = api_.CreateModelFromFile(runtime_.environment, file_.path.c_str(), &model_);
    if (status != 0) throw Error(file_.path + ": cannot be loaded as a LiteRT model; export the folder again");
    require(api_.GetModelSignature(model_, 0, &signature_), "has no signature");
    compile(threads);
    input_index_ = create_buffers(file_.inputs, true);
    output_index_ = create_buffers(file_.outputs, false);
  } catch (...) {
    release();
    throw;
  }
}

Model::~Model() { release(); }

void Model::release() {
  for (litert::Buffer buffer : inputs_) api_.DestroyTensorBuffer(buffer);
  for (litert::Buffer buffer : outputs_) api_.DestroyTensorBuffer(buffer);
  if (compiled_ != nullptr) api_.DestroyCompiledModel(compiled_);
  if (model_ != nullptr) api_.DestroyModel(model_);
}

void Model::require(litert::Status status, const std::string& what) const {
  if (status != 0) throw Error(file_.path + ": " + what + " (LiteRT status " + std::to_string(status) + ")");
}

void Model::compile(int threads) {
  litert::Options options = nullptr;
  litert::OpaqueOptions cpu = nullptr;
  require(api_.CreateOptions(&options), "cannot be compiled");
  const std::string settings = "num_threads = " + std::to_string(threads) + "\n";  // LiteRT takes them as TOML
  litert::Status status = api_.SetOptionsHardwareAccelerators(options, litert::kCpu);
  if (status == 0) status = api_.CreateOpaqueOptions("xnnpack", strdup(settings.c_str()), std::free, &cpu);
  if (status == 0) status = api_.AddOpaqueOptions(options, cpu);
  if (status == 0) status = api_.CreateCompiledModel(runtime_.environment, model_, options, &compiled_);
  api_.DestroyOptions(options);
  require(status, "cannot be compiled");
}

std::map<std::string, size_t> Model::create_buffers(const std::vector<Port>& ports, bool inputs) {
  size_t count = 0;
  require((inputs ? api_.GetNumSignatureInputs : api_.GetNumSignatureOutputs)(signature_, &count), "has no signature");
  std::map<std::string, size_t> indices;
  std::vector<litert::Buffer>& buffers = inputs ? inputs_ : outputs_;
  for (size_t i = 0; i < count; i++) {
    const char* name = nullptr;
    litert::Tensor tensor = nullptr;
    litert::TensorType type{};
    litert::Requirements requirements = nullptr;
    litert::Buffer buffer = nullptr;
    require((inputs ? api_.GetSignatureInputName : api_.GetSignatureOutputName)(signature_, i, &name), "has no names");
    require((inputs ? api_.GetSignatureInputTensorByIndex : api_.GetSignatureOutputTensorByIndex)(signature_, i, &tensor),
            "has no tensors");
    require(api_.GetRankedTensorType(tensor, &type), "has a tensor of unknown shape");
    require((inputs ? api_.GetCompiledModelInputBufferRequirements
                    : api_.GetCompiledModelOutputBufferRequirements)(compiled_, 0, i, &requirements),
            "has no buffers");
    require(api_.CreateManagedTensorBufferFromRequirements(runtime_.environment, &type, requirements, &buffer),
            "not enough memory for its tensors");
    buffers.push_back(buffer);
    indices[name] = i;

    const Port* port = nullptr;
    for (size_t j = 0; j < ports.size(); j++) {
      const std::string numbered = "output_" + std::to_string(j);  // what the converter calls outputs
      if (ports[j].name == name || (!inputs && numbered == name)) port = &ports[j];
    }
    if (port == nullptr) continue;
    indices[port->name] = i;
    const std::vector<int> shape(type.layout.dimensions, type.layout.dimensions + type.layout.rank);
    const int element = port->dtype == "int32" ? litert::kInt32 : litert::kFloat32;
    if (shape != port->shape || type.element_type != element || port->dtype == "float16")
      throw Error(file_.path + ": '" + port->name +
                  "' has another shape or type than export.json says; export the folder again, or use a LiteRT 2.x library");
  }
  for (const Port& port : ports)
    if (!indices.count(port.name))
      throw Error(file_.path + ": has no tensor '" + port.name + "'; export the folder again");
  return indices;
}

void Model::write(const std::string& input, const void* values, size_t count) {
  const auto found = input_index_.find(input);
  if (found == input_index_.end()) throw Error(file_.path + ": has no input '" + input + "'");
  litert::Buffer buffer = inputs_[found->second];
  const size_t bytes = count * sizeof(float);
  size_t size = 0;
  void* memory = nullptr;
  require(api_.GetTensorBufferSize(buffer, &size), "cannot write an input");
  if (bytes > size) throw Error(file_.path + ": input '" + input + "' is smaller than its values");
  require(api_.LockTensorBuffer(buffer, &memory, litert::kWrite), "cannot write an input");
  std::memcpy(memory, values, bytes);
  require(api_.UnlockTensorBuffer(buffer), "cannot write an input");
}

void Model::run() {
  require(api_.RunCompiledModel(compiled_, 0, inputs_.size(), inputs_.data(), outputs_.size(), outputs_.data()),
          "cannot be run");
}

std::vector<float> Model::get(const std::string& output) const {
  const auto found = output_index_.find(output);
  if (found == output_index_.end()) throw Error(file_.path + ": has no output '" + output + "'");
  const Port* port = nullptr;
  for (const Port& candidate : file_.outputs)
    if (candidate.name == output) port = &candidate;
  litert::Buffer buffer = outputs_[found->second];
  std::vector<float> values(port->size());
  void* memory = nullptr;
  require(api_.LockTensorBuffer(buffer, &memory, litert::kRead), "cannot read an output");
  std::memcpy(values.data(), memory, values.size() * sizeof(float));
  require(api_.UnlockTensorBuffer(buffer), "cannot read an output");
  return values;
}
