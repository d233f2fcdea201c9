kernel {
  name        = "edge 1"
  state_dir   = "state"
  enforcment  = "enforce"
}

engine "wazreo" {
  isolation = "procss"
}

audit {
  dir        = "audit"
  key        = "PRIVATE+KEY+do-not-print-me"
  durability = disk
  sink "syslog" {}
}

identity "reporting" {
  trust_vector = "signed"
}
identity "edge" {
  trust_vector = "edge_gateway"
}
identity "reporting" {
  trust_vector = "unverified"
}

policy "inbox" {
  syscalls        = ["file_raed", "kv_*", 7]
  plugins         = ["sumarise"]
  deny_identities = ["reportin"]
  min_trust_score = 1.5
  on_violation    = "quarantene"
  when            = "subject.scre > 0.5"
  deny_when       = "dna.calls"
  rate            = "5/s"
  arg "0" {
    match = "(unclosed"
  }
  arg "first" {}
}
policy "open" {
  syscalls = []
}
policy "default" {
  syscalls = ["*"]
  mode     = "permissive"
}
policy "anything" {
}

plugin "summarise" {
  wasm        = "missing.wasm"
  identity    = "reportign"
  engine      = "wasmer"
  trust_level = "limited"
  version     = 3
  signature   = file("missing.minisig")
  capabilities {
    syscalls  = ["file_open", "file_write", "kv_put"]
    resources = ["file:///data/../etc", "data"]
    apis      = ["other"]
    custom    = ["eu"]
  }
  mount "data" {
    host = "nowhere"
    mode = "rx"
  }
  limits {
    memory    = "64MB"
    fuel      = 0
    timeout   = "2 seconds"
    instances = 0
  }
  limits = {}
}

plugin "native" {
  native  = "native.bin"
  state   = "keep"
  sandbox = "strict"
  config  = { lang = env("CONFIG_TEST_UNSET") }
}
plugin "pinned" {
  wasm        = "native.bin"
  sha256      = "00000000000000000000000000000000000000000000000000000000000000aa"
  version     = env("CONFIG_TEST_UNSET")
  trust_level = "standard"
  sandbox     = "none"
}
plugin "nothing" {
  trust_level = [for l in ["core"] : l]
}
plugin {
  wasm        = null
  trust_level = "core"
}
edge "a" {}
