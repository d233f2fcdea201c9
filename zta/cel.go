package zta

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"

	"forgeone.dev/forgeone/capability"
)

// Bounds of what a condition may be given. They make the static estimate of its
// cost a bound on the cost of any evaluation: a request beyond them is denied
// by every policy with a condition.
const (
	maxConditionArgs = 32      // arguments
	maxConditionText = 8 << 10 // bytes of an argument or a resource
)

// maxConditionCost is the highest estimated cost of a condition, in CEL's cost
// units; a regular expression over every argument, each as long as may be, is
// well below it.
const maxConditionCost = 1_000_000

// Assumed sizes of what the host, not the guest, supplies.
const (
	assumedEntries = 64
	assumedText    = 1 << 10
)

var (
	subjectType = cel.ObjectType("forgeone.Subject")
	dnaType     = cel.ObjectType("forgeone.DNA")
)

// field is a member of subject or dna: computed when a condition asks for it.
type field struct {
	typ *cel.Type
	get func(*activation) any
}

var subjectFields = map[string]field{
	"id":        {cel.StringType, func(a *activation) any { return a.request.Identity.ID }},
	"score":     {cel.DoubleType, func(a *activation) any { return a.score }},
	"level":     {cel.StringType, func(a *activation) any { return a.level.String() }},
	"plugin":    {cel.StringType, func(a *activation) any { return a.request.Plugin }},
	"container": {cel.StringType, func(a *activation) any { return a.request.Container }},
	"groups":    {cel.ListType(cel.StringType), func(a *activation) any { return a.request.Identity.Groups }},
	"publisher": {cel.StringType, func(a *activation) any { return a.request.Identity.Publisher }},
	"vector":    {cel.StringType, func(a *activation) any { return a.request.Identity.TrustVector.String() }},
}

var dnaFields = map[string]field{
	"calls":      {cel.IntType, func(a *activation) any { return int64(a.request.DNA.Calls()) }},
	"denials_1m": {cel.IntType, func(a *activation) any { return int64(a.request.DNA.Denials(a.request.Now, time.Minute)) }},
	"integrity":  {cel.DoubleType, func(a *activation) any { return a.integrity }},
}

// condition is a compiled CEL expression.
type condition struct {
	program cel.Program
}

// conditions compiles expressions, each text once.
type conditions struct {
	env      *cel.Env
	syscalls []string // all there are
	compiled map[string]*condition
}

func newConditions(syscalls []string) (*conditions, error) {
	provider, err := newTypeProvider()
	if err != nil {
		return nil, err
	}
	env, err := cel.NewEnv(
		cel.CustomTypeProvider(provider),
		cel.CustomTypeAdapter(provider),
		cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true),
		cel.ExtendedValidations(),
		cel.Variable("subject", subjectType),
		cel.Variable("dna", dnaType),
		cel.Variable("syscall", cel.StringType),
		cel.Variable("args", cel.ListType(cel.StringType)),
		cel.Variable("resources", cel.ListType(cel.StringType)),
		cel.Variable("custom", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("now", cel.TimestampType),
		cel.Function("seen", cel.MemberOverload("dna_seen_string",
			[]*cel.Type{dnaType, cel.StringType}, cel.BoolType, cel.BinaryBinding(dnaSeen))),
		cel.Function("first_seen", cel.MemberOverload("dna_first_seen_string",
			[]*cel.Type{dnaType, cel.StringType}, cel.TimestampType, cel.BinaryBinding(dnaFirstSeen))),
		cel.Function("after", cel.MemberOverload("dna_after_string_string",
			[]*cel.Type{dnaType, cel.StringType, cel.StringType}, cel.BoolType, cel.FunctionBinding(dnaAfter))),
	)
	if err != nil {
		return nil, fmt.Errorf("CEL environment: %w", err)
	}
	return &conditions{env: env, syscalls: syscalls, compiled: map[string]*condition{}}, nil
}

// compile parses and type-checks an expression, which must be boolean and
// cheap.
func (cs *conditions) compile(expression string) (*condition, error) {
	if c, ok := cs.compiled[expression]; ok {
		return c, nil
	}
	checked, issues := cs.env.Compile(expression)
	if err := issues.Err(); err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "ERROR: "))
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("the condition is of type %s: it must be a bool", checked.OutputType())
	}
	if err := errors.Join(literalRegexps(checked), knownSyscalls(checked, cs.syscalls)); err != nil {
		return nil, err
	}
	estimate, err := cs.env.EstimateCost(checked, sizes{})
	if err != nil {
		return nil, fmt.Errorf("estimating the cost: %w", err)
	}
	switch {
	case estimate.Max == math.MaxUint64:
		return nil, errors.New("no bound of the condition's cost is known: make it simpler")
	case estimate.Max > maxConditionCost:
		return nil, fmt.Errorf("the condition may cost %d units, %d is the most: avoid nested all() and exists()", estimate.Max, maxConditionCost)
	}
	program, err := cs.env.Program(checked, cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, err
	}
	c := &condition{program: program}
	cs.compiled[expression] = c
	return c, nil
}

// calls are the calls of a function in an expression.
func calls(checked *cel.Ast, function string) []ast.NavigableExpr {
	return ast.MatchDescendants(ast.NavigateAST(checked.NativeRep()), ast.FunctionMatcher(function))
}

// knownSyscalls refuses names of syscalls that do not exist: a history never
// holds them, so that a misspelt name would silently be false.
func knownSyscalls(checked *cel.Ast, syscalls []string) error {
	var errs []error
	for _, function := range []string{"seen", "first_seen", "after"} {
		for _, call := range calls(checked, function) {
			for _, arg := range call.AsCall().Args() {
				if arg.Kind() != ast.LiteralKind {
					continue
				}
				name := capability.Canonical(fmt.Sprint(arg.AsLiteral().Value()))
				if !slices.Contains(syscalls, name) {
					errs = append(errs, fmt.Errorf("dna.%s: unknown syscall %q%s", function, name, didYouMean(name, syscalls)))
				}
			}
		}
	}
	return errors.Join(errs...)
}

// literalRegexps refuses regular expressions that are not literals: one that
// came from an argument could take megabytes to compile.
func literalRegexps(checked *cel.Ast) error {
	for _, call := range calls(checked, overloads.Matches) {
		args := call.AsCall().Args()
		if len(args) == 0 || args[len(args)-1].Kind() != ast.LiteralKind {
			return errors.New("the pattern of matches() must be a literal string")
		}
	}
	return nil
}

// eval evaluates the condition. An error is never an answer.
func (c *condition) eval(st *evaluation) (bool, error) {
	if st.activation == nil {
		if err := withinBounds(st.request); err != nil {
			return false, err
		}
		st.activation = st.graph.activation(st)
	}
	out, _, err := c.program.Eval(st.activation)
	if err != nil {
		return false, err
	}
	b, ok := out.(types.Bool)
	if !ok {
		return false, fmt.Errorf("the condition gave %s, not a bool", out.Type())
	}
	return bool(b), nil
}

func withinBounds(r *Request) error {
	if len(r.Args) > maxConditionArgs {
		return fmt.Errorf("%d arguments: %d is the most", len(r.Args), maxConditionArgs)
	}
	for _, list := range [...][]string{r.Args, r.Resources} {
		for _, s := range list {
			if len(s) > maxConditionText {
				return fmt.Errorf("an argument or resource of %d bytes: %d is the most", len(s), maxConditionText)
			}
		}
	}
	return nil
}

// activation is what a condition can read.
type activation struct {
	standing
	subject, dna object
}

func (g *PolicyGraph) activation(st *evaluation) *activation {
	a, ok := g.pool.Get().(*activation)
	if !ok {
		a = new(activation)
		a.subject = object{a, subjectType}
		a.dna = object{a, dnaType}
	}
	a.standing = st.standing
	return a
}

// release gives the activation back. Nothing of the request stays in it.
func (a *activation) release(g *PolicyGraph) {
	a.standing = standing{}
	g.pool.Put(a)
}

// ResolveName implements [interpreter.Activation].
func (a *activation) ResolveName(name string) (any, bool) {
	switch name {
	case "subject":
		return &a.subject, true
	case "dna":
		return &a.dna, true
	case "syscall":
		return a.request.Syscall, true
	case "args":
		return a.request.Args, true
	case "resources":
		return a.request.Resources, true
	case "custom":
		return a.request.Set.Attributes(), true
	case "now":
		return a.request.Now, true
	}
	return nil, false
}

// Parent implements [interpreter.Activation].
func (a *activation) Parent() interpreter.Activation { return nil }

// object is subject or dna as a CEL value. It has fields and methods, and does
// nothing else.
type object struct {
	*activation
	typ *cel.Type
}

// ConvertToNative implements [ref.Val].
func (o *object) ConvertToNative(t reflect.Type) (any, error) {
	return nil, fmt.Errorf("%s is no %v", o.typ, t)
}

// ConvertToType implements [ref.Val].
func (o *object) ConvertToType(t ref.Type) ref.Val {
	if t == types.TypeType {
		return o.typ
	}
	return types.NewErr("%s is no %s", o.typ, t.TypeName())
}

// Equal implements [ref.Val].
func (o *object) Equal(other ref.Val) ref.Val { return types.Bool(ref.Val(o) == other) }

// Type implements [ref.Val].
func (o *object) Type() ref.Type { return o.typ }

// Value implements [ref.Val].
func (o *object) Value() any { return o }

func dnaSeen(dna, name ref.Val) ref.Val {
	o, n, ok := dnaArgs(dna, name)
	if !ok {
		return types.MaybeNoSuchOverloadErr(dna)
	}
	_, seen := o.request.DNA.FirstSeen(n)
	return types.Bool(seen)
}

func dnaFirstSeen(dna, name ref.Val) ref.Val {
	o, n, ok := dnaArgs(dna, name)
	if !ok {
		return types.MaybeNoSuchOverloadErr(dna)
	}
	t, seen := o.request.DNA.FirstSeen(n)
	if !seen {
		return types.NewErr("%s was never called: ask dna.seen first", n)
	}
	return types.Timestamp{Time: t}
}

func dnaAfter(args ...ref.Val) ref.Val {
	o, a, ok := dnaArgs(args[0], args[1])
	b, ok2 := args[2].(types.String)
	if !ok || !ok2 {
		return types.MaybeNoSuchOverloadErr(args[0])
	}
	return types.Bool(o.request.DNA.After(a, capability.Canonical(string(b))))
}

func dnaArgs(dna, name ref.Val) (*object, string, bool) {
	o, ok := dna.(*object)
	n, ok2 := name.(types.String)
	return o, capability.Canonical(string(n)), ok && ok2
}

// typeProvider adds the types of subject and dna to those of CEL, so that a
// misspelt field is found when the policy is compiled.
type typeProvider struct {
	*types.Registry
	fields map[string]map[string]*types.FieldType
}

func newTypeProvider() (*typeProvider, error) {
	registry, err := types.NewRegistry()
	if err != nil {
		return nil, fmt.Errorf("CEL types: %w", err)
	}
	p := &typeProvider{Registry: registry, fields: map[string]map[string]*types.FieldType{}}
	for typ, fields := range map[*cel.Type]map[string]field{subjectType: subjectFields, dnaType: dnaFields} {
		compiled := map[string]*types.FieldType{}
		for name, f := range fields {
			compiled[name] = &types.FieldType{
				Type:  f.typ,
				IsSet: func(any) bool { return true },
				GetFrom: func(target any) (any, error) {
					o, ok := target.(*object)
					if !ok || o.typ != typ {
						return nil, fmt.Errorf("no %s: %T", typ, target)
					}
					return f.get(o.activation), nil
				},
			}
		}
		p.fields[typ.TypeName()] = compiled
	}
	return p, nil
}

// FindStructType implements [types.Provider].
func (p *typeProvider) FindStructType(name string) (*types.Type, bool) {
	if _, ok := p.fields[name]; ok {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Registry.FindStructType(name)
}

// FindStructFieldNames implements [types.Provider].
func (p *typeProvider) FindStructFieldNames(name string) ([]string, bool) {
	if fields, ok := p.fields[name]; ok {
		names := make([]string, 0, len(fields))
		for n := range fields {
			names = append(names, n)
		}
		return names, true
	}
	return p.Registry.FindStructFieldNames(name)
}

// FindStructFieldType implements [types.Provider].
func (p *typeProvider) FindStructFieldType(name, fieldName string) (*types.FieldType, bool) {
	if fields, ok := p.fields[name]; ok {
		f, ok := fields[fieldName]
		return f, ok
	}
	return p.Registry.FindStructFieldType(name, fieldName)
}

// sizes tells the cost estimate how large the variables can be.
type sizes struct{}

// EstimateSize implements [cost.Estimator].
func (sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	upTo := func(n uint64) *cost.SizeEstimate { return &cost.SizeEstimate{Max: n} }
	switch path := strings.Join(n.Path(), "."); path {
	case "args":
		return upTo(maxConditionArgs)
	case "resources":
		return upTo(maxResources)
	case "args.@items", "resources.@items":
		return upTo(maxConditionText)
	case "custom", "subject.groups":
		return upTo(assumedEntries)
	case "":
		return nil
	}
	return upTo(assumedText)
}

// EstimateCallCost implements [cost.Estimator]: looking into a history costs
// like a handful of steps, and what is not text is short as text.
func (sizes) EstimateCallCost(function, overload string, _ *cost.AstNode, _ []cost.AstNode) *cost.CallEstimate {
	switch function {
	case "seen", "first_seen", "after":
		return &cost.CallEstimate{CostEstimate: cost.FixedCostEstimate(10)}
	}
	switch overload {
	case overloads.BoolToString, overloads.IntToString, overloads.UintToString, overloads.DoubleToString,
		overloads.TimestampToString, overloads.DurationToString:
		return &cost.CallEstimate{CostEstimate: cost.FixedCostEstimate(1), ResultSize: &cost.SizeEstimate{Max: 64}}
	}
	return nil
}
