// Does C++ get what Python got? Its output of a TorchScript program, and weights converted --plain.
#include <fstream>
#include <iostream>
#include <torch/script.h>

using Tensors = std::map<std::string, torch::Tensor>;
constexpr double kTolerance = 1e-5;  // another processor may add in another order
std::string at_hand;                 // the file that an error is about

Tensors read_tensors(const std::string& path) try {
  std::ifstream file(at_hand = path, std::ios::binary);
  if (!file) throw std::system_error(errno, std::generic_category());
  const std::vector<char> bytes(std::istreambuf_iterator<char>(file), {});
  Tensors tensors;
  for (const auto& item : torch::jit::pickle_load(bytes).toGenericDict())
    tensors[item.key().toStringRef()] = item.value().toTensor();
  return tensors;
} catch (const c10::Error&) {
  throw std::runtime_error("no dict of tensors that LibTorch reads; convert --plain makes them");
}

bool is_output_same(torch::jit::Module& program, const Tensors& given) {
  TORCH_CHECK(given.count("input") && given.count("output"), "it has no input, or no output");
  const auto ours = program.forward({given.at("input")}).toTensor(), theirs = given.at("output");
  TORCH_CHECK(ours.sizes() == theirs.sizes(), "output ", ours.sizes(), ", not ", theirs.sizes());
  const auto largest = (ours - theirs).abs().max().item<double>();
  std::cout << "output: largest difference " << largest << ", allowed " << kTolerance << '\n';
  return largest <= kTolerance;  // false for NaN
}

bool are_weights_same(const torch::jit::Module& program, const Tensors& weights) {
  Tensors own;
  for (const auto& each : program.named_parameters()) own[each.name] = each.value;
  bool is_same = true;
  for (const auto& [name, ours] : own)
    if (!weights.count(name)) is_same = false, std::cout << name << "  missing in the file\n";
  for (const auto& each : program.named_buffers()) own[each.name] = each.value;
  for (const auto& [name, theirs] : weights) {
    const auto ours = own[name];  // undefined where the program has none
    const bool is_equal = ours.defined() && ours.dtype() == theirs.dtype() && ours.equal(theirs);
    std::cout << name << "  " << theirs.scalar_type() << "  " << theirs.sizes() << "  "
              << (is_equal ? "equal" : ours.defined() ? "different" : "not in the program") << '\n';
    is_same = is_same && is_equal;
  }
  return is_same;
}

int main(int count, char** words) try {
  if (count != 4) return std::cerr << "usage: same_in_cpp PROGRAM IN_AND_OUT WEIGHTS\n", 2;
  const auto weights = read_tensors(words[3]);
  torch::jit::ExtraFilesMap extra{{"holdfast.json", ""}};
  auto program = torch::jit::load(at_hand = words[1], torch::kCPU, extra);
  if (!extra["holdfast.json"].empty()) std::cout << "record: " << extra["holdfast.json"] << '\n';
  const bool is_same = is_output_same(program, read_tensors(words[2]));
  return are_weights_same(program, weights) && is_same ? 0 : 1;
} catch (const c10::Error& error) {
  return std::cerr << at_hand << ": " << error.what_without_backtrace() << '\n', 1;
} catch (const std::exception& error) {
  return std::cerr << at_hand << ": " << error.what() << '\n', 1;
}
