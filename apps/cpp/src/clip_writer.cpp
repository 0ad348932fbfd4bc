#include "clip_writer.h"

#include <zlib.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "error.h"

namespace fs = std::filesystem;

namespace {

using Bytes = std::vector<uint8_t>;

void add_uint32(Bytes& bytes, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<uint8_t>(value >> shift));
}

void add_uint16(Bytes& bytes, uint32_t value) {
  bytes.push_back(static_cast<uint8_t>(value >> 8));
  bytes.push_back(static_cast<uint8_t>(value));
}

void add_chunk(Bytes& png, const char* name, const Bytes& data) {
  add_uint32(png, static_cast<uint32_t>(data.size()));
  const size_t start = png.size();
  png.insert(png.end(), name, name + 4);
  png.insert(png.end(), data.begin(), data.end());
  add_uint32(png, static_cast<uint32_t>(crc32(0, &png[start], static_cast<uInt>(png.size() - start))));
}

Bytes compressed(const Clip& clip, int frame) {
  const size_t row = static_cast<size_t>(clip.width) * clip.channels;
  const uint8_t* pixels = &clip.pixels[static_cast<size_t>(frame) * clip.height * row];
  Bytes rows;
  for (int y = 0; y < clip.height; y++) {
    rows.push_back(0);  // no filter
    rows.insert(rows.end(), pixels + y * row, pixels + (y + 1) * row);
  }
  uLongf size = compressBound(static_cast<uLong>(rows.size()));
  Bytes data(size);
  if (compress(data.data(), &size, rows.data(), static_cast<uLong>(rows.size())) != Z_OK)
    throw Error("not enough memory to compress the clip");
  data.resize(size);
  return data;
}

/// PNG of the frames from `first` to before `last`; animated if there are several (the APNG extension).
Bytes png(const Clip& clip, int first, int last) {
  Bytes out{0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'}, header;
  add_uint32(header, static_cast<uint32_t>(clip.width));
  add_uint32(header, static_cast<uint32_t>(clip.height));
  header.insert(header.end(), {8, static_cast<uint8_t>(clip.channels == 3 ? 2 : 0), 0, 0, 0});
  add_chunk(out, "IHDR", header);
  const bool animated = last - first > 1;
  uint32_t sequence = 0;
  if (animated) {
    Bytes control;
    add_uint32(control, static_cast<uint32_t>(last - first));
    add_uint32(control, 0);  // repeat forever
    add_chunk(out, "acTL", control);
  }
  for (int frame = first; frame < last; frame++) {
    if (animated) {
      Bytes control;
      add_uint32(control, sequence++);
      add_uint32(control, static_cast<uint32_t>(clip.width));
      add_uint32(control, static_cast<uint32_t>(clip.height));
      add_uint32(control, 0);
      add_uint32(control, 0);
      add_uint16(control, 1000);
      add_uint16(control, static_cast<uint32_t>(std::lround(1000 * clip.fps)));
      control.insert(control.end(), {0, 0});
      add_chunk(out, "fcTL", control);
    }
    Bytes data;
    if (frame > first) add_uint32(data, sequence++);
    const Bytes pixels = compressed(clip, frame);
    data.insert(data.end(), pixels.begin(), pixels.end());
    add_chunk(out, frame > first ? "fdAT" : "IDAT", data);
  }
  add_chunk(out, "IEND", {});
  return out;
}

/// Gray, or 4:4:4 with the coefficients of BT.601, limited range, as players expect.
Bytes y4m(const Clip& clip) {
  char header[128];
  std::snprintf(header, sizeof header, "YUV4MPEG2 W%d H%d F%ld:1000 Ip A1:1 C%s\n", clip.width, clip.height,
                std::lround(1000 * clip.fps), clip.channels == 3 ? "444" : "mono");
  Bytes out(header, header + std::string(header).size());
  const size_t area = static_cast<size_t>(clip.height) * clip.width;
  for (int frame = 0; frame < clip.frames; frame++) {
    const std::string start = "FRAME\n";
    out.insert(out.end(), start.begin(), start.end());
    const uint8_t* pixels = &clip.pixels[frame * area * clip.channels];
    const auto plane = [&](double red, double green, double blue, double offset) {
      for (size_t i = 0; i < area; i++) {
        const uint8_t* p = pixels + i * clip.channels;
        const double r = p[0], g = p[clip.channels == 3 ? 1 : 0], b = p[clip.channels == 3 ? 2 : 0];
        out.push_back(static_cast<uint8_t>(std::lround(offset + (red * r + green * g + blue * b) / 255)));
      }
    };
    plane(65.481, 128.553, 24.966, 16);
    if (clip.channels != 3) continue;
    plane(-37.797, -74.203, 112, 128);
    plane(112, -93.786, -18.214, 128);
  }
  return out;
}

void write(const fs::path& path, const Bytes& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  file.close();
  if (!file) throw Error("--out: " + path.string() + ": cannot be written; give another path");
}

}  // namespace

void check_clip_name(const std::string& path) {
  const std::string suffix = fs::path(path).extension().string();
  if (suffix != ".png" && suffix != ".y4m" && !suffix.empty())
    throw Error("--out: unknown suffix '" + suffix + "'; use .png (animated), .y4m, or a folder's name for single frames");
}

void write_clip(const std::string& path, const Clip& clip) {
  const fs::path target(path);
  std::error_code failed;
  if (target.has_parent_path()) fs::create_directories(target.parent_path(), failed);
  if (target.extension() == ".y4m") return write(target, y4m(clip));
  if (target.extension() == ".png") return write(target, png(clip, 0, clip.frames));
  fs::create_directories(target, failed);
  for (int frame = 0; frame < clip.frames; frame++) {
    char name[16];
    std::snprintf(name, sizeof name, "%04d.png", frame);
    write(target / name, png(clip, frame, frame + 1));
  }
}
