// Makes a clip from a prompt with an export folder of `nas export --format litert`, on LiteRT's C API.

#include <getopt.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "clip_writer.h"
#include "error.h"
#include "export_folder.h"
#include "model.h"
#include "sampler.h"
#include "tokenizer.h"

using nlohmann::ordered_json;

namespace {

constexpr const char* kUsage =
    "usage: nas-clip --export DIR --prompt TEXT --out FILE [options]\n"
    "\n"
    "Makes a clip from a prompt with a folder that 'nas export --format litert' wrote.\n"
    "\n"
    "  --export DIR      the export folder\n"
    "  --prompt TEXT     what the clip shows\n"
    "  --ids N,N,...     token ids in place of --prompt\n"
    "  --out FILE        .png (animated), .y4m, or a folder for single frames\n"
    "  --seed N          of the noise  [default: 0]\n"
    "  --threads N       CPU threads  [default: 1]\n"
    "  --repeat N        time this many clips  [default: 1]\n"
    "  --timing FILE     write the time of every part as JSON\n"
    "  --library FILE    LiteRT's library  [default: libLiteRt.so]\n"
    "\n"
    "example: nas-clip --export export --prompt 'the digit three moves left' --out three.png\n";

struct Arguments {
  std::string folder, out, timing, library = "libLiteRt.so";
  std::string prompt;
  std::vector<int32_t> ids;
  bool has_prompt = false;
  uint64_t seed = 0;
  int threads = 1, repeat = 1;
};

/// Milliseconds since the last call.
class Timer {
 public:
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    const double ms = std::chrono::duration<double, std::milli>(now - last_).count();
    last_ = now;
    return ms;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

struct ClipTimes {
  double text_encoder_ms = 0, sampling_ms = 0, decoding_ms = 0;
  std::vector<double> denoiser_ms, decoder_ms;  // of each run

  double total_ms() const { return text_encoder_ms + sampling_ms + decoding_ms; }
};

uint64_t whole_number(const char* text, const std::string& option, uint64_t low, uint64_t high) {
  char* end = nullptr;
  errno = 0;
  const uint64_t value = std::strtoull(text, &end, 10);
  if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || value < low || value > high)
    throw Error(option + ": needs a whole number from " + std::to_string(low) + " to " + std::to_string(high) +
                ", not '" + text + "'");
  return value;
}

std::vector<int32_t> read_ids(const std::string& text) {
  std::vector<int32_t> ids;
  std::istringstream stream(text);
  for (std::string id; std::getline(stream, id, ',');)
    ids.push_back(static_cast<int32_t>(whole_number(id.c_str(), "--ids", 0, INT32_MAX)));
  if (ids.empty()) throw Error("--ids: is empty; give the numbers separated by commas");
  return ids;
}

Arguments parse(int argc, char** argv) {
  const option options[] = {{"export", 1, nullptr, 'e'}, {"prompt", 1, nullptr, 'p'},  {"ids", 1, nullptr, 'i'},
                            {"out", 1, nullptr, 'o'},    {"seed", 1, nullptr, 's'},    {"threads", 1, nullptr, 't'},
                            {"repeat", 1, nullptr, 'r'}, {"timing", 1, nullptr, 'm'},  {"library", 1, nullptr, 'l'},
                            {"help", 0, nullptr, 'h'},   {nullptr, 0, nullptr, 0}};
  Arguments found;
  opterr = 0;
  for (int code; (code = getopt_long(argc, argv, "", options, nullptr)) != -1;) {
    switch (code) {
      case 'e': found.folder = optarg; break;
      case 'p': found.prompt = optarg, found.has_prompt = true; break;
      case 'i': found.ids = read_ids(optarg); break;
      case 'o': found.out = optarg; break;
      case 's': found.seed = whole_number(optarg, "--seed", 0, INT64_MAX); break;
      case 't': found.threads = static_cast<int>(whole_number(optarg, "--threads", 1, 256)); break;
      case 'r': found.repeat = static_cast<int>(whole_number(optarg, "--repeat", 1, 10000)); break;
      case 'm': found.timing = optarg; break;
      case 'l': found.library = optarg; break;
      case 'h': std::cout << kUsage; std::exit(0);
      default: throw Error("unknown option, or a value is missing: '" + std::string(argv[optind - 1]) + "'; see --help");
    }
  }
  if (optind < argc) throw Error("unexpected argument '" + std::string(argv[optind]) + "'; see --help");
  if (found.folder.empty()) throw Error("--export: is missing; see --help");
  if (found.out.empty()) throw Error("--out: is missing; see --help");
  if (found.has_prompt != found.ids.empty()) throw Error("give either --prompt or --ids");
  check_clip_name(found.out);
  return found;
}

double peak_memory_mb() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("VmHWM:", 0) == 0) return std::strtod(line.c_str() + 6, nullptr) * 1024 / 1e6;
  return 0;
}

/// Runs the three models one after the other, so that only one is in memory.
class ClipMaker {
 public:
  ClipMaker(const Arguments& arguments, const ExportFolder& folder, const Runtime& runtime)
      : arguments_(arguments), folder_(folder), runtime_(runtime), times_(static_cast<size_t>(arguments.repeat)) {}

  Clip make() {
    const std::vector<float> context = encode();
    const std::vector<float> latents = denoise(context);
    return decode(latents);
  }

  const std::vector<ClipTimes>& times() const { return times_; }
  const ordered_json& load_ms() const { return load_ms_; }

 private:
  std::vector<float> encode() {
    Timer timer;
    const Tokenizer tokenizer(folder_.prompt.tokenizer_json);
    load_ms_["tokenizer"] = timer.lap();
    Model model(runtime_, folder_.text_encoder, arguments_.threads);
    load_ms_["text_encoder"] = timer.lap();
    for (ClipTimes& times : times_) {
      const Tokens tokens = arguments_.has_prompt ? tokenizer.encode(arguments_.prompt, folder_.prompt.tokens)
                                                  : tokenizer.pad(arguments_.ids, folder_.prompt.tokens);
      model.set("input_ids", tokens.ids);
      model.set("attention_mask", tokens.mask);
      model.run();
      times.text_encoder_ms = timer.lap();
    }
    return model.get();
  }

  std::vector<float> denoise(const std::vector<float>& context) {
    Timer timer;
    Model model(runtime_, folder_.denoiser, arguments_.threads);
    load_ms_["denoiser"] = timer.lap();
    const size_t size = folder_.denoiser.input("x").size();
    std::vector<float> latents;
    for (ClipTimes& times : times_) {
      Timer call;
      latents = sample(folder_.sampling, size, arguments_.seed,
                       [&](const std::vector<float>& x, float timestep, bool conditional) {
                         call.lap();
                         model.set("x", x);
                         model.set("timestep", std::vector<float>{timestep});
                         model.set("context", conditional ? context : folder_.prompt.empty_context);
                         model.run();
                         std::vector<float> prediction = model.get();
                         times.denoiser_ms.push_back(call.lap());
                         return prediction;
                       });
      times.sampling_ms = timer.lap();
    }
    for (float value : latents)
      if (!std::isfinite(value)) throw Error(folder_.denoiser.path + ": returns NaN or infinity; export another checkpoint");
    return latents;
  }

  Clip decode(const std::vector<float>& latents) {
    Timer timer;
    Model model(runtime_, folder_.decoder, arguments_.threads);
    load_ms_["decoder"] = timer.lap();
    Clip clip{folder_.clip.frames, folder_.clip.height, folder_.clip.width, folder_.clip.channels, folder_.clip.fps, {}};
    for (ClipTimes& times : times_) {
      clip.pixels.clear();
      decode_into(model, latents, clip, times);
      times.decoding_ms = timer.lap();
    }
    return clip;
  }

  void decode_into(Model& model, const std::vector<float>& latents, Clip& clip, ClipTimes& times) {
    const Decoding& decoding = folder_.decoding;
    for (const std::string& name : decoding.state)
      model.set(name, std::vector<float>(folder_.decoder.input(name).size()));
    for (int run = 0; run < decoding.runs; run++) {
      Timer call;
      model.set("latents", frames_of(latents, run * decoding.frames, decoding.frames));
      model.run();
      const std::vector<float> video = model.get(decoding.state.empty() ? folder_.decoder.outputs.at(0).name : "video");
      for (const std::string& name : decoding.state) model.set(name, model.get(name + "_out"));
      times.decoder_ms.push_back(call.lap());
      append_pixels(video, run == 0 ? decoding.drop_first : 0, clip);
    }
  }

  /// Latent frames of `(1, C, T, h, w)`.
  std::vector<float> frames_of(const std::vector<float>& latents, int start, int count) const {
    const std::vector<int>& shape = folder_.latents;
    const size_t area = static_cast<size_t>(shape[3]) * shape[4];
    std::vector<float> part;
    for (int channel = 0; channel < shape[1]; channel++) {
      const auto first = latents.begin() + static_cast<long>((static_cast<size_t>(channel) * shape[2] + start) * area);
      part.insert(part.end(), first, first + static_cast<long>(count * area));
    }
    return part;
  }

  /// `(1, C, T, H, W)` in [minimum, maximum] -> uint8 `(T, H, W, C)`, without the first frames.
  void append_pixels(const std::vector<float>& video, int drop, Clip& clip) const {
    const int frames = folder_.decoding.video_frames;
    const size_t area = static_cast<size_t>(clip.height) * clip.width;
    if (video.size() != area * frames * clip.channels)
      throw Error(folder_.decoder.path + ": its output differs from 'clip' and 'decoding' in export.json; export again");
    for (int frame = drop; frame < frames; frame++) {
      for (size_t i = 0; i < area; i++) {
        for (int channel = 0; channel < clip.channels; channel++) {
          const float value = video[(static_cast<size_t>(channel) * frames + frame) * area + i];
          if (!std::isfinite(value)) throw Error(folder_.decoder.path + ": returns NaN or infinity");
          const float bounded = std::min(std::max(value, folder_.clip.minimum), folder_.clip.maximum);
          clip.pixels.push_back(static_cast<uint8_t>(std::lrint((bounded + 1) * 127.5f)));
        }
      }
    }
  }

  const Arguments& arguments_;
  const ExportFolder& folder_;
  const Runtime& runtime_;
  std::vector<ClipTimes> times_;
  ordered_json load_ms_;
};

ordered_json timing_json(const Arguments& arguments, const ExportFolder& folder, const ClipMaker& maker, double save_ms) {
  ordered_json clips = ordered_json::array();
  for (const ClipTimes& times : maker.times())
    clips.push_back({{"text_encoder_ms", times.text_encoder_ms},
                     {"denoiser_ms", times.denoiser_ms},
                     {"sampling_ms", times.sampling_ms},
                     {"decoder_ms", times.decoder_ms},
                     {"decoding_ms", times.decoding_ms},
                     {"total_ms", times.total_ms()}});
  return {{"schema_version", 1},
          {"runtime", "litert"},
          {"weights_sha256", folder.weights_sha256},
          {"threads", arguments.threads},
          {"seed", arguments.seed},
          {"load_ms", maker.load_ms()},
          {"clips", clips},
          {"save_ms", save_ms},
          {"peak_memory_mb", peak_memory_mb()}};
}

void print(const Arguments& arguments, const ExportFolder& folder, const ClipMaker& maker) {
  const ClipTimes& times = maker.times().back();
  std::printf("text encoder %10.1f ms\n", times.text_encoder_ms);
  std::printf("denoiser     %10.1f ms  (%zu runs)\n", times.sampling_ms, times.denoiser_ms.size());
  std::printf("decoder      %10.1f ms  (%zu runs)\n", times.decoding_ms, times.decoder_ms.size());
  std::printf("clip         %10.1f ms  (%d frames, %.1f frames per second)\n", times.total_ms(), folder.clip.frames,
              1000 * folder.clip.frames / times.total_ms());
  std::printf("peak memory  %10.1f MB\n%s\n", peak_memory_mb(), arguments.out.c_str());
}

void run(const Arguments& arguments) {
  const ExportFolder folder = read_export_folder(arguments.folder);
  const Runtime runtime(arguments.library);
  ClipMaker maker(arguments, folder, runtime);
  const Clip clip = maker.make();
  Timer timer;
  write_clip(arguments.out, clip);
  const double save_ms = timer.lap();
  if (!arguments.timing.empty()) {
    std::ofstream file(arguments.timing);
    file << timing_json(arguments, folder, maker, save_ms).dump(2) << "\n";
    file.close();
    if (!file) throw Error("--timing: " + arguments.timing + ": cannot be written; give another path");
  }
  print(arguments, folder, maker);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(parse(argc, argv));
    return 0;
  } catch (const Error& error) {
    std::cerr << "nas-clip: " << error.what() << "\n";
  } catch (const std::bad_alloc&) {
    std::cerr << "nas-clip: not enough memory for this clip\n";
  }
  return 2;
}
