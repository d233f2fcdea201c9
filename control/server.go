package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/config"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/quarantine"
)

// Bounds of what crosses the socket.
const (
	MaxInput      = 64 << 20 // bytes of a call's input
	maxRequest    = 1 << 20  // bytes of any other request
	maxHeader     = 64 << 10
	headerTimeout = 5 * time.Second
	bodyTimeout   = time.Minute
	idleTimeout   = 2 * time.Minute
	drainTimeout  = 10 * time.Second // for requests in flight at the end
)

// Configuration is the configuration that a kernel runs by.
type Configuration struct {
	Path    string
	Config  *config.Config // last good
	Loaded  time.Time
	Problem error // why what the files now say is not in force
}

// Options are what a server is made of. All but Logger are required.
type Options struct {
	Host   *host.PluginHost
	Log    *audit.Log
	Config func() Configuration
	// Kind classes the errors of the kernel: they come from more rooms than
	// this package knows. [Failed] is always a right answer.
	Kind func(error) Kind
	// Explain says how a request of a plugin would be decided now, for each
	// syscall that it takes.
	Explain  func(context.Context, ExplainRequest) ([]Explanation, error)
	Version  string
	AuditDir string
	Logger   hclog.Logger // nil for none
}

// Server serves the control API of one kernel.
type Server struct {
	Options
	started time.Time
}

// NewServer makes a server.
func NewServer(o Options) *Server {
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	return &Server{Options: o, started: time.Now().UTC()}
}

// Serve answers on l until ctx ends, then finishes the requests in flight, as
// far as they end within ten seconds, and removes the socket.
func (s *Server) Serve(ctx context.Context, l *Listener) error {
	h := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ConnContext:       withPeer,
		ErrorLog:          s.Logger.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Warn}),
	}
	served := make(chan error, 1)
	go func() { served <- h.Serve(l) }()
	select {
	case err := <-served: // it never ends well by itself
		return fmt.Errorf("control socket: %w", err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	err := h.Shutdown(end)
	if err != nil {
		err = errors.Join(err, h.Close())
	}
	if e := <-served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// handle answers a request, whose body was read, with a value.
type handle func(r *http.Request, body []byte) (any, error)

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range map[string]handle{
		"GET /v1/status":                     s.status,
		"GET /v1/plugins":                    s.plugins,
		"GET /v1/plugins/{ref}":              s.plugin,
		"POST /v1/plugins/{ref}/load":        s.load,
		"POST /v1/plugins/{ref}/start":       s.verb("start", (*host.PluginHost).StartPlugin),
		"POST /v1/plugins/{ref}/pause":       s.verb("pause", (*host.PluginHost).PausePlugin),
		"POST /v1/plugins/{ref}/resume":      s.verb("resume", (*host.PluginHost).ResumePlugin),
		"POST /v1/plugins/{ref}/stop":        s.verb("stop", (*host.PluginHost).StopPlugin),
		"POST /v1/plugins/{ref}/unload":      s.verb("unload", (*host.PluginHost).UnloadPlugin),
		"POST /v1/plugins/{ref}/reload":      s.reload,
		"POST /v1/explain":                   s.explain,
		"GET /v1/quarantine":                 s.cases,
		"GET /v1/quarantine/{case}":          s.quarantineCase,
		"POST /v1/quarantine/{case}/release": s.release,
		"/":                                  unknown,
	} {
		mux.Handle(pattern, s.answer(h))
	}
	mux.HandleFunc("POST /v1/plugins/{ref}/call", s.call)
	return s.admit(mux)
}

func unknown(r *http.Request, _ []byte) (any, error) {
	return nil, &Error{Kind: NotFound, Message: fmt.Sprintf("the control API has no %s %s: the client may be of another version", r.Method, r.URL.Path)}
}

// admit turns away peers that may not use the socket, and bounds how long and
// how much a request may send.
func (s *Server) admit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := peerOf(r.Context()); p.err != nil {
			s.Logger.Warn("control request refused", "reason", p.err)
			s.fail(w, &Error{Kind: Forbidden, Message: p.err.Error()})
			return
		}
		// Until the body is read; a call may then take as long as it takes,
		// and the connection is watched for a client that goes away.
		if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout)); err != nil {
			s.fail(w, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// body reads a request's body whole.
func body(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, &Error{Kind: Limit, Message: fmt.Sprintf("the request is larger than the %d bytes that are taken", limit)}
	}
	if err != nil {
		return nil, &Error{Kind: Usage, Message: "request body: " + err.Error()}
	}
	return b, http.NewResponseController(w).SetReadDeadline(time.Time{})
}

func (s *Server) answer(h handle) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := body(w, r, maxRequest)
		if err != nil {
			s.fail(w, err)
			return
		}
		v, err := h(r, b)
		if err != nil {
			s.fail(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil {
			s.Logger.Debug("control answer not sent", "error", err)
		}
	})
}

// decode reads the JSON body of a request.
func decode(body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return &Error{Kind: Usage, Message: "request body: " + err.Error()}
	}
	return nil
}

// statusOf is the HTTP status of each kind of error.
var statusOf = map[Kind]int{
	Usage: http.StatusBadRequest, Config: http.StatusUnprocessableEntity, NotFound: http.StatusNotFound,
	Conflict: http.StatusConflict, Blocked: http.StatusForbidden, Quarantined: http.StatusLocked,
	Limit: http.StatusRequestEntityTooLarge, Forbidden: http.StatusForbidden,
}

func (s *Server) fail(w http.ResponseWriter, err error) {
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Kind: cmp.Or(s.Kind(err), Failed), Message: err.Error()}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(cmp.Or(statusOf[e.Kind], http.StatusInternalServerError))
	if err := json.NewEncoder(w).Encode(e); err != nil {
		s.Logger.Debug("control answer not sent", "error", err)
	}
}

// record puts on record who asks for a change.
func (s *Server) record(r *http.Request, verb string, details map[string]string) error {
	details["event"], details["verb"], details["peer_uid"] = "control", verb, fmt.Sprint(peerOf(r.Context()).uid)
	if _, err := s.Log.Append(&audit.Record{Kind: audit.KindKernel, Plugin: r.PathValue("ref"), Details: details}); err != nil {
		return fmt.Errorf("%s: not done, because the audit log cannot be written: %w", verb, err)
	}
	return nil
}

func (s *Server) status(*http.Request, []byte) (any, error) {
	c := s.Config()
	hs, head, graph := s.Host.Status(), s.Log.Head(), s.Host.Gate().GetPolicyGraph()
	st := Status{
		Name: c.Config.Kernel.Name, Version: s.Version, PID: os.Getpid(), Started: s.started,
		Phase: string(hs.Phase), Reason: hs.Reason, StateDir: c.Config.Kernel.StateDir,
		Config:  ConfigStatus{Path: c.Path, Digest: c.Config.Digest, Loaded: c.Loaded},
		Policy:  PolicyStatus{Digest: graph.Digest(), Mode: graph.Mode().String(), Policies: []string{}},
		Audit:   AuditStatus{Dir: s.AuditDir, Records: head.Records, Root: head.Root, Checkpoint: head.CheckpointSize},
		Engines: []Engine{},
		Plugins: s.views(),
	}
	if c.Problem != nil {
		st.Config.Problem = c.Problem.Error()
	}
	if head.Healthy != nil {
		st.Audit.Problem = head.Healthy.Error()
	}
	for _, p := range graph.Policies() {
		st.Policy.Policies = append(st.Policy.Policies, p.Name)
	}
	for i, e := range s.Host.Engines() {
		st.Engines = append(st.Engines, Engine{Name: e.Name, Version: e.Version, Default: i == 0})
	}
	for _, k := range s.Host.Cases().List() {
		if k.State == quarantine.Open {
			st.OpenCases++
		}
	}
	return st, nil
}

func (s *Server) views() []Plugin {
	views := []Plugin{}
	for _, p := range s.Host.Plugins() {
		views = append(views, ViewPlugin(p))
	}
	return views
}

func (s *Server) plugins(*http.Request, []byte) (any, error) { return s.views(), nil }

func (s *Server) plugin(r *http.Request, _ []byte) (any, error) {
	id, err := s.Host.Lookup(r.PathValue("ref"))
	if err != nil {
		return nil, err
	}
	return s.view(id)
}

func (s *Server) view(id uuid.UUID) (any, error) {
	p, err := s.Host.Plugin(id)
	if err != nil {
		return nil, err
	}
	return ViewPlugin(p), nil
}

// configured is the plugin of that name in the configuration in force.
func (s *Server) configured(name string) (host.PluginConfig, error) {
	c := s.Config()
	for _, p := range c.Config.Plugins {
		if p.Name == name {
			return p, nil
		}
	}
	return host.PluginConfig{}, &Error{Kind: NotFound, Message: fmt.Sprintf("no plugin %q in %s: add a plugin block for it", name, c.Path)}
}

func (s *Server) load(r *http.Request, _ []byte) (any, error) {
	cfg, err := s.configured(r.PathValue("ref"))
	if err != nil {
		return nil, err
	}
	if err := s.record(r, "load", map[string]string{}); err != nil {
		return nil, err
	}
	id, err := s.Host.LoadPlugin(r.Context(), cfg)
	if err != nil {
		return nil, err
	}
	return s.view(id)
}

func (s *Server) verb(name string, do func(*host.PluginHost, context.Context, uuid.UUID) error) handle {
	return func(r *http.Request, _ []byte) (any, error) {
		id, err := s.Host.Lookup(r.PathValue("ref"))
		if err != nil {
			return nil, err
		}
		p, err := s.Host.Plugin(id)
		if err != nil {
			return nil, err
		}
		if err := s.record(r, name, map[string]string{}); err != nil {
			return nil, err
		}
		if err := do(s.Host, r.Context(), id); err != nil {
			return nil, err
		}
		if now, err := s.Host.Plugin(id); err == nil {
			p = now
		} else { // unloaded: as it was last
			p.Status = host.PluginStatus{Phase: host.PluginUnloaded}
		}
		return ViewPlugin(p), nil
	}
}

// reload takes a plugin's configuration from the one in force, and its artifact
// from disk.
func (s *Server) reload(r *http.Request, body []byte) (any, error) {
	return s.verb("reload", func(h *host.PluginHost, ctx context.Context, id uuid.UUID) error {
		p, err := h.Plugin(id)
		if err != nil {
			return err
		}
		cfg, err := s.configured(p.Name)
		if err != nil {
			return err
		}
		return h.ReloadPlugin(ctx, id, &cfg)
	})(r, body)
}

// call answers with the bytes that the function returned.
func (s *Server) call(w http.ResponseWriter, r *http.Request) {
	out, err := s.callPlugin(w, r)
	if err != nil {
		s.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", fmt.Sprint(len(out)))
	if _, err := w.Write(out); err != nil {
		s.Logger.Debug("control answer not sent", "error", err)
	}
}

func (s *Server) callPlugin(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	q := r.URL.Query()
	function := q.Get("function")
	if function == "" {
		return nil, &Error{Kind: Usage, Message: "no function to call"}
	}
	id, err := s.Host.Lookup(r.PathValue("ref"))
	if err != nil {
		return nil, err
	}
	ctx := r.Context() // ends when the client goes away
	if text := q.Get("timeout"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			return nil, &Error{Kind: Usage, Message: fmt.Sprintf("timeout %q: want a positive duration such as 2s", text)}
		}
		if err := CanTimeOut(s.Host, id); err != nil {
			return nil, err
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	input, err := body(w, r, MaxInput)
	if err != nil {
		return nil, err
	}
	return s.Host.Call(ctx, id, function, input)
}

// CanTimeOut is an error if calls of a plugin cannot be ended by a timeout,
// since its engine cannot interrupt a guest: a limit that would not be held is
// refused.
func CanTimeOut(h *host.PluginHost, id uuid.UUID) error {
	p, err := h.Plugin(id)
	if err != nil {
		return err
	}
	for _, e := range h.Engines() {
		if e.Name == p.Engine && !e.Interrupt {
			return &Error{Kind: Usage, Message: fmt.Sprintf("plugin %q runs on engine %s, which cannot interrupt a guest: leave the timeout out, or use another engine", p.Name, e.Name)}
		}
	}
	return nil
}

func (s *Server) explain(r *http.Request, body []byte) (any, error) {
	var q ExplainRequest
	if err := decode(body, &q); err != nil {
		return nil, err
	}
	es, err := s.Explain(r.Context(), q)
	if err != nil {
		return nil, err
	}
	return es, nil
}

func (s *Server) cases(*http.Request, []byte) (any, error) { return s.Host.Cases().List(), nil }

func (s *Server) quarantineCase(r *http.Request, _ []byte) (any, error) {
	k, err := s.Host.Cases().Get(r.PathValue("case"))
	if err != nil {
		return nil, err
	}
	return k, nil
}

// releaseRequest closes a quarantine case.
type releaseRequest struct {
	Reason string `json:"reason"`
}

func (s *Server) release(r *http.Request, body []byte) (any, error) {
	var q releaseRequest
	if err := decode(body, &q); err != nil {
		return nil, err
	}
	if q.Reason == "" {
		return nil, &Error{Kind: Usage, Message: "a release needs a reason: it is put on record"}
	}
	id := r.PathValue("case")
	if err := s.record(r, "release", map[string]string{"case": id}); err != nil {
		return nil, err
	}
	k, err := s.Host.ReleaseCase(r.Context(), id, fmt.Sprintf("uid:%d", peerOf(r.Context()).uid), q.Reason)
	if err != nil {
		return nil, err
	}
	return k, nil
}
