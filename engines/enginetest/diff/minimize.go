package diff

import (
	"context"
	"errors"
	"slices"
)

// Minimize takes out of a module what it can while the same two runs of it
// still differ, in at most attempts steps. The module is changed in place.
func Minimize(ctx context.Context, subjects []Subject, d *Difference, attempts int) *Difference {
	differs := func() bool {
		if attempts--; attempts < 0 {
			return false
		}
		next, ok := errors.AsType[*Difference](CheckModule(ctx, subjects, d.Module, d.Seed, new(Tally)))
		if ok = ok && next.A == d.A && next.B == d.B; ok {
			d = next
		}
		return ok
	}
	for changed := true; changed && attempts > 0; {
		changed = false
		funcs := d.Module.Funcs
		if d.Module.Lender != nil {
			funcs = slices.Concat(funcs, d.Module.Lender.Funcs)
		}
		for _, f := range funcs {
			if shrink(&f.Body, true, differs) {
				changed = true
			}
		}
	}
	return d
}

// shrink takes out nodes that leave nothing on the stack, if whole says that
// each stands for itself, and makes constants of those that leave one value.
func shrink(list *[]*node, whole bool, differs func() bool) (changed bool) {
	for i := len(*list) - 1; i >= 0; i-- {
		n := (*list)[i]
		if n.keep {
			continue
		}
		before := slices.Clone(*list)
		switch {
		case whole && len(n.results) == 0:
			*list = slices.Delete(slices.Clone(*list), i, i+1)
		case len(n.results) == 1 && (len(n.args) > 0 || n.block):
			*list = slices.Clone(*list)
			(*list)[i] = zero(n.results[0])
		default:
			before = nil
		}
		if before != nil {
			if differs() {
				changed = true
				continue
			}
			*list = before
		}
		changed = shrink(&n.args, false, differs) || changed
		changed = shrink(&n.body, n.block, differs) || changed
		if n.orElse != nil {
			changed = shrink(&n.orElse, true, differs) || changed
		}
	}
	return changed
}
