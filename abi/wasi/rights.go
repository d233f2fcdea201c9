package wasi

// rights are what may be done with a descriptor. A guest can give them up, and
// opens nothing with more than the directory it opens it in passes on. They
// bind the guest to its own word: what it may do at all is the gate's to say.
type rights uint64

const (
	rightDatasync rights = 1 << iota
	rightRead
	rightSeek
	rightSetFlags
	rightSync
	rightTell
	rightWrite
	rightAdvise
	rightAllocate
	rightCreateDirectory
	rightCreateFile
	rightLinkSource
	rightLinkTarget
	rightOpen
	rightReaddir
	rightReadlink
	rightRenameSource
	rightRenameTarget
	rightPathStat
	rightPathSetSize
	rightPathSetTimes
	rightStat
	rightSetSize
	rightSetTimes
	rightSymlink
	rightRemoveDirectory
	rightUnlinkFile
	rightPoll
)

const (
	// stdioRights lack rightSeek and rightTell, by which C libraries tell a
	// terminal from other character devices.
	stdioRights = rightStat | rightSetFlags | rightPoll
	fileRights  = rightDatasync | rightRead | rightSeek | rightSetFlags | rightSync | rightTell | rightWrite |
		rightAdvise | rightAllocate | rightStat | rightSetSize | rightSetTimes | rightPoll
	dirRights = rightDatasync | rightSetFlags | rightSync | rightCreateDirectory | rightCreateFile |
		rightLinkSource | rightLinkTarget | rightOpen | rightReaddir | rightReadlink | rightRenameSource | rightRenameTarget |
		rightPathStat | rightPathSetSize | rightPathSetTimes | rightStat | rightSetTimes |
		rightSymlink | rightRemoveDirectory | rightUnlinkFile | rightPoll

	// writing are the rights that a file must be open for writing for. The first
	// asks for it: some ask for the others although they will not write.
	writing = rightWrite | rightAllocate | rightSetSize
)

// fdFlags are the flags of a descriptor.
type fdFlags uint16

const (
	flagAppend fdFlags = 1 << iota
	flagDsync
	flagNonblock
	flagRsync
	flagSync

	flagsSync = flagDsync | flagRsync | flagSync
	allFlags  = flagAppend | flagNonblock | flagsSync
)

// fileType is the type of what a descriptor is open on.
type fileType byte

const (
	typeUnknown         fileType = 0
	typeCharacterDevice fileType = 2
	typeDirectory       fileType = 3
	typeRegular         fileType = 4
)
