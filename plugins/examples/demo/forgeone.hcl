# The kernel that `make demo` brings up: four plugins, two of each kind, that
# are given the same grants and meet the same policies. Relative paths are taken
# from this file's folder.

kernel {
  name      = "demo"
  state_dir = "state"
}

engine "wazero" {
  default = true
}

audit {
  dir          = "audit"
  generate_key = true # for a demo: a key beside its log proves little to others
}

# Reading below /data is what the plugins are for. Whoever tries to climb out of
# it is not mistaken but hostile.
policy "inbox" {
  syscalls = ["file_open", "file_read"]

  arg "0" {
    match = "^/data/"
    deny  = "\\.\\."
  }
  on_violation = "quarantine"
}

# What any plugin may do to itself: keep counts, log, read the clock.
policy "own-affairs" {
  syscalls        = ["kv_get", "kv_put", "log_write", "stdio_write", "time_get", "time_sleep", "random_get"]
  min_trust_level = "limited"
}

plugin "summarise-wasm" {
  wasm        = "plugins/summarise.wasm"
  version     = "1.0.0"
  trust_level = "standard"

  capabilities {
    syscalls  = ["read_file", "kv_get", "kv_put", "log_write", "stdio_write", "time_get", "time_sleep", "random_get"]
    resources = ["file:///data/**"]
  }
  mount "/data" {
    host = "inbox"
    mode = "ro"
  }
}

plugin "summarise-native" {
  native      = "plugins/summarise"
  sha256      = env("SUMMARISE_SHA256")
  version     = "1.0.0"
  trust_level = "standard"
  sandbox     = "none"

  capabilities {
    syscalls  = ["read_file", "kv_get", "kv_put", "log_write"]
    resources = ["file:///data/**"]
  }
  mount "/data" {
    host = "inbox"
    mode = "ro"
  }
}

plugin "rogue-wasm" {
  wasm        = "plugins/rogue.wasm"
  version     = "0.0.1"
  trust_level = "limited"

  capabilities {
    syscalls  = ["read_file", "log_write", "stdio_write", "time_get", "time_sleep", "random_get"]
    resources = ["file:///data/**"]
  }
  mount "/data" {
    host = "inbox"
    mode = "ro"
  }
}

plugin "rogue-native" {
  native      = "plugins/rogue"
  sha256      = env("ROGUE_SHA256")
  version     = "0.0.1"
  trust_level = "limited"
  sandbox     = "none"

  capabilities {
    syscalls  = ["read_file", "log_write"]
    resources = ["file:///data/**"]
  }
  mount "/data" {
    host = "inbox"
    mode = "ro"
  }
}
