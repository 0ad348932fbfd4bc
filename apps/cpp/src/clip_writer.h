#pragma once

#include <cstdint>
#include <string>
#include <vector>

/// uint8 frames, `frames x height x width x channels`; 1 channel is gray, 3 are sRGB.
struct Clip {
  int frames, height, width, channels;
  double fps;
  std::vector<uint8_t> pixels;
};

/// Throws `Error` if the name has no known suffix.
void check_clip_name(const std::string& path);

/// Write an animated PNG (`.png`), a raw video (`.y4m`), or, without a suffix, a folder of `0000.png`, ...
void write_clip(const std::string& path, const Clip& clip);
