package meter

// cycles reports for each function defined whether it can be on a cycle of the
// call graph: whether a call of it can lead to another call of it while it
// runs. An indirect call may reach every function that a reference can be taken
// of, and a call of an import may come back by every function that is exported;
// both are taken as calls of one node that calls them all.
func (m *module) cycles() ([]bool, error) {
	n := len(m.bodies)
	calls := make([][]uint32, n+1) // of defined functions; the last node is the one for all
	for i, body := range m.bodies {
		var err error
		if calls[i], err = m.calls(body.reader()); err != nil {
			return nil, err
		}
	}
	for i, addressed := range m.addressed[m.imported:] {
		if addressed {
			calls[n] = append(calls[n], uint32(i))
		}
	}
	return cyclic(calls)[:n], nil
}

// calls lists the nodes that a function calls.
func (m *module) calls(r *reader) (out []uint32, err error) {
	anyone := uint32(len(m.bodies))
	seen := make(map[uint32]bool)
	add := func(node uint32) {
		if !seen[node] {
			seen[node] = true
			out = append(out, node)
		}
	}
	m.locals(r)
	for r.more() {
		switch in := m.instr(r); in.op {
		case opCallIndirect:
			add(anyone)
		case opCall:
			if fn := in.imm[0]; r.err == nil && int(fn) < m.imported {
				add(anyone)
			} else if r.err == nil {
				add(fn - uint32(m.imported))
			}
		}
	}
	return out, r.err
}

// cyclic reports which nodes of a graph are on a cycle: its strongly connected
// components by Tarjan's algorithm, with a stack of its own because a hostile
// graph is as deep as it is large.
func cyclic(graph [][]uint32) []bool {
	type visit struct {
		node uint32
		next int // edge to follow
	}
	var (
		on      = make([]bool, len(graph)) // a cycle
		order   = make([]int, len(graph))  // of discovery, 0 before
		low     = make([]int, len(graph))  // earliest node on the stack that is reached
		stacked = make([]bool, len(graph))
		stack   []uint32
		path    []visit
		clock   int
	)
	enter := func(n uint32) {
		clock++
		order[n], low[n], stacked[n] = clock, clock, true
		stack = append(stack, n)
		path = append(path, visit{node: n})
	}
	for root := range graph {
		if order[root] != 0 {
			continue
		}
		enter(uint32(root))
		for len(path) > 0 {
			top := &path[len(path)-1]
			n := top.node
			if top.next < len(graph[n]) {
				to := graph[n][top.next]
				top.next++
				switch {
				case to == n:
					on[n] = true
				case order[to] == 0:
					enter(to)
				case stacked[to]:
					low[n] = min(low[n], order[to])
				}
				continue
			}
			path = path[:len(path)-1]
			if len(path) > 0 {
				above := path[len(path)-1].node
				low[above] = min(low[above], low[n])
			}
			if low[n] != order[n] {
				continue
			}
			for alone := stack[len(stack)-1] == n; ; {
				last := stack[len(stack)-1]
				stack = stack[:len(stack)-1]
				stacked[last] = false
				on[last] = on[last] || !alone
				if last == n {
					break
				}
			}
		}
	}
	return on
}
