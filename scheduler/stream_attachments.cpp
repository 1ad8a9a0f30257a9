#include "scheduler/stream_attachments.h"

#include <sys/ioctl.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "executor/os/syscall.h"

namespace berth {
namespace {

void set_size(const UniqueFd& master, TerminalWindow window) {
  const winsize size{window.rows, window.columns, 0, 0};
  ::ioctl(master.get(), TIOCSWINSZ, &size);  // the kernel tells the job by SIGWINCH, when it changes
}

/// A sentence for the client where the status alone does not say what happened.
std::string message_of(const Outcome& outcome) {
  return outcome.cause == Cause::exited ? std::string() : outcome.message;
}

void tell_attached(StreamSession& session, AttemptId id, bool terminal) {
  const nlohmann::json told{{"attempt", id.attempt}, {"terminal", terminal}};
  session.tell(StreamFrame::Kind::attached, told.dump());
}

}  // namespace

StreamAttachments::StreamAttachments(DescriptorLoop& loop, std::function<void(JobId, int)> signal)
    : loop_(loop), signal_(std::move(signal)) {}

void StreamAttachments::add(const StreamRequest& request, const AttemptView& attempt, UniqueFd client,
                            unsigned& of_user) {
  const JobId job = request.id.job_id;
  auto session = std::make_shared<StreamSession>(
      loop_, std::move(client), of_user,
      StreamSession::Requests{[this, job](int number) { signal_(job, number); },
                              [this, job](TerminalWindow window) { resize(job, window); }});
  if (attempt.state == AttemptView::State::ended) {
    tell_attached(*session, request.id, false);
    session->end(exit_status(*attempt.outcome), message_of(*attempt.outcome));
    ending_.push_back(std::move(session));
    return;
  }
  Target& target = targets_[job];
  if (attempt.state == AttemptView::State::runs) {
    target.begun = true;
    target.terminal = attempt.terminal;
  }
  target.id = request.id;
  if (request.terminal) {
    target.window = request.terminal;
  }
  target.sessions.push_back(session);
  if (!target.begun) {
    return;
  }
  join(target, *session);
  if (target.master && request.terminal) {
    // By way of another size, so that a program draws again what this client has not seen.
    set_size(target.master,
             {static_cast<std::uint16_t>(request.terminal->rows + 1), request.terminal->columns});
    set_size(target.master, *request.terminal);
  }
}

void StreamAttachments::join(Target& target, StreamSession& session) {
  tell_attached(session, target.id, target.terminal);
  if (!target.terminal) {
    session.ignore_input();
  } else if (target.master) {
    session.connect(duplicate(target.master), UniqueFd{}, UniqueFd{});
  }
}

TerminalWindow StreamAttachments::window_of(JobId job) const {
  const auto found = targets_.find(job);
  return found == targets_.end() ? TerminalWindow{} : found->second.window.value_or(TerminalWindow{});
}

void StreamAttachments::resize(JobId job, TerminalWindow window) {
  const auto found = targets_.find(job);
  if (found == targets_.end()) {
    return;
  }
  found->second.window = window;
  if (found->second.master) {
    set_size(found->second.master, window);
  }
}

void StreamAttachments::begin(AttemptId id, bool terminal) {
  if (!terminal && !targets_.contains(id.job_id)) {
    return;
  }
  Target& target = targets_[id.job_id];
  target.id = id;
  target.begun = true;
  target.terminal = terminal;
  for (const auto& session : target.sessions) {
    join(target, *session);
  }
}

void StreamAttachments::open_terminal(JobId job, UniqueFd master) {
  const auto found = targets_.find(job);
  if (found == targets_.end()) {
    return;
  }
  Target& target = found->second;
  target.master = std::move(master);
  if (target.window) {
    set_size(target.master, *target.window);
  }
  for (const auto& session : target.sessions) {
    session->connect(duplicate(target.master), UniqueFd{}, UniqueFd{});
  }
}

void StreamAttachments::tell(JobId job, StreamFrame::Kind stream, std::string_view text) {
  if (targets_.empty()) {
    return;
  }
  if (const auto found = targets_.find(job); found != targets_.end()) {
    for (const auto& session : found->second.sessions) {
      session->tell(stream, text);
    }
  }
}

void StreamAttachments::end(AttemptId id, const Outcome& outcome) {
  const auto found = targets_.find(id.job_id);
  if (found == targets_.end()) {
    return;
  }
  for (auto& session : found->second.sessions) {
    session->end(exit_status(outcome), message_of(outcome));
    ending_.push_back(std::move(session));
  }
  targets_.erase(found);
}

void StreamAttachments::sweep() {
  const auto is_finished = [](const auto& session) { return session->is_finished(); };
  std::erase_if(ending_, is_finished);
  for (auto target = targets_.begin(); target != targets_.end();) {
    std::erase_if(target->second.sessions, is_finished);
    const bool idle = target->second.sessions.empty() && !target->second.terminal;
    target = idle ? targets_.erase(target) : std::next(target);
  }
}

}  // namespace berth
