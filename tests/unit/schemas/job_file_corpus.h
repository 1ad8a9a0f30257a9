// The job files of tests/data/job_files: `good` ones, and `bad` ones with the faults expected of each in
// NAME.faults: `text` is not strict JSON, `structure` breaks the JSON Schema, `meaning` keeps to the schema
// and breaks a rule that it cannot state.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace berth {

struct CorpusFile {
  std::string path;
  std::string name;
  std::string text;
  std::string faults;  ///< one a line; empty for good files
};

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline CorpusFile corpus_file(const std::string& relative) {
  const auto path = std::filesystem::path(BERTH_SOURCE_DIR "/tests/data/job_files") / relative;
  auto faults = path;
  faults.replace_extension(".faults");
  return {relative, path.filename().string(), read_text(path), read_text(faults)};
}

inline std::vector<CorpusFile> corpus(const std::string& folder) {
  std::vector<CorpusFile> files;
  for (const auto& entry :
       std::filesystem::directory_iterator(BERTH_SOURCE_DIR "/tests/data/job_files/" + folder)) {
    if (entry.path().extension() == ".json") {
      files.push_back(corpus_file(folder + "/" + entry.path().filename().string()));
    }
  }
  std::sort(files.begin(), files.end(),
            [](const CorpusFile& a, const CorpusFile& b) { return a.path < b.path; });
  return files;
}

}  // namespace berth
