// CPU builds of torch have all headers of CUDA builds but this generated one.
#pragma once
#define C10_CUDA_BUILD_SHARED_LIBS
