package meter

import (
	"bytes"
	"fmt"
	"os"

	"forgeone.dev/forgeone/engines"
)

// memory is that of an instance.
type memory struct {
	engines.Memory
	name   string               // that it is exported by
	mapper engines.MemoryMapper // nil if the engine maps no files
}

// memoryOf is the memory of an inner instance.
func (l *layout) memoryOf(inner engines.Instance) *memory {
	m := &memory{Memory: inner.Memory(*l.memory), name: *l.memory}
	m.mapper, _ = inner.(engines.MemoryMapper)
	return m
}

// image is what a memory holds: runs, or a file that is mapped.
type image struct {
	size uint64 // of the memory
	runs []run  // in order; between them are zeros. Unused if there is a file
	file *os.File
}

// mapBytes is how much must be written to a memory before it costs less to map
// a file.
const mapBytes = 32 << 10

// newImage is the image of a memory of that size that holds the runs, in a file
// if that is worth its while where files are mapped.
func newImage(size uint64, runs []run, mapped bool) (*image, error) {
	im := &image{size: size, runs: runs}
	n := 0
	for _, r := range runs {
		n += len(r.bytes)
	}
	if !mapped || n < mapBytes {
		return im, nil
	}
	err := im.toFile(func() error {
		for _, r := range runs {
			if err := im.put(r.offset, r.bytes); err != nil {
				return err
			}
		}
		return nil
	})
	return im, err
}

// captureImage is the image of a memory as it is.
func captureImage(mem engines.Memory, mapped bool) (*image, error) {
	im := &image{size: mem.Size()}
	if mapped && im.size > 0 {
		return im, im.toFile(func() error { return im.capture(mem) })
	}
	return im, im.capture(mem)
}

// toFile has fill put all there is into a file, which then never changes.
func (im *image) toFile(fill func() error) error {
	file, err := createFile(im.size)
	if err != nil {
		return fmt.Errorf("a file for %d bytes of memory: %w", im.size, err)
	}
	im.file, im.runs = file, nil
	if err = fill(); err == nil {
		err = seal(file)
	}
	if err != nil {
		im.close()
		return fmt.Errorf("a file for %d bytes of memory: %w", im.size, err)
	}
	return nil
}

// capture puts what is not zero, block by block.
func (im *image) capture(mem engines.Memory) error {
	const block = 4096
	page, zeros := make([]byte, engines.PageSize), make([]byte, block)
	for at := uint64(0); at < im.size; at += engines.PageSize {
		if !mem.Read(at, page) {
			return fmt.Errorf("the memory ends before byte %d", at+engines.PageSize)
		}
		for start := 0; start < len(page); {
			end := start
			for end < len(page) && !bytes.Equal(page[end:end+block], zeros) {
				end += block
			}
			if end > start {
				if err := im.put(at+uint64(start), page[start:end]); err != nil {
					return err
				}
			}
			start = end + block
		}
	}
	return nil
}

// put adds what comes after all that was added.
func (im *image) put(offset uint64, b []byte) error {
	if im.file != nil {
		_, err := im.file.WriteAt(b, int64(offset))
		return err
	}
	im.runs = append(im.runs, run{offset, bytes.Clone(b)})
	return nil
}

// lay makes a memory that is as it was instantiated hold the image.
func (im *image) lay(mem *memory) error {
	if size := mem.Size(); size < im.size {
		if _, ok := mem.Grow(uint32((im.size - size) / engines.PageSize)); !ok {
			return fmt.Errorf("the engine cannot grow a memory from %d to %d bytes", size, im.size)
		}
	}
	if im.file != nil {
		return mem.mapper.MapMemory(mem.name, im.file, im.size)
	}
	for _, r := range im.runs {
		if !mem.Write(r.offset, r.bytes) {
			return fmt.Errorf("the engine cannot write %d bytes at %d to a memory of %d", len(r.bytes), r.offset, mem.Size())
		}
	}
	return nil
}

// relay makes a memory that the image was laid into hold it again.
func (im *image) relay(mem *memory) bool {
	if im.file != nil {
		return mem.mapper.ResetMemory(mem.name) == nil
	}
	zeros := make([]byte, min(im.size, engines.PageSize))
	clean := func(from, to uint64) bool {
		for from < to {
			n := min(to-from, uint64(len(zeros)))
			if !mem.Write(from, zeros[:n]) {
				return false
			}
			from += n
		}
		return true
	}
	end := uint64(0)
	for _, r := range im.runs {
		if !clean(end, r.offset) || !mem.Write(r.offset, r.bytes) {
			return false
		}
		end = r.offset + uint64(len(r.bytes))
	}
	return clean(end, im.size)
}

// close frees the file. What is mapped stays.
func (im *image) close() {
	if im.file != nil {
		_ = im.file.Close() // nothing was written that could be lost
	}
}
